//! The outcome of every message: each must have exactly one, and exactly the effect of that outcome.
//!
//! A message is handled, dead, discarded, or replaced by an operator's edit, which makes another message. A message
//! without an outcome is lost; one with two outcomes or a repeated effect is repeated.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use super::{
    journal::{History, MessageIdentity, RowChange},
    traffic::{Expectation, expectation, parse_object},
};

/// The findings of the checker.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) lost: Vec<String>,
    pub(super) repeated: Vec<String>,
    pub(super) violations: Vec<String>,
    /// The number of messages with each outcome.
    pub(super) outcomes: BTreeMap<&'static str, usize>,
    /// Messages with a finding.
    pub(super) affected: Vec<MessageIdentity>,
}

impl Findings {
    fn count(&self) -> usize {
        self.lost.len() + self.repeated.len() + self.violations.len()
    }
}

/// A message with everything that determines its outcome.
struct MessageState<'a> {
    identity: &'a MessageIdentity,
    kind: &'a str,
    body: &'a [u8],
    /// The positions at which it was sent; empty if an edit made it.
    sent: &'a [i64],
    /// The last change of its latest row of `failed_messages`.
    last: Option<&'a RowChange>,
    /// The position of the edit that replaced it by another message.
    replaced_at: Option<i64>,
    handled: bool,
}

/// What is collected about a message before the check.
#[derive(Default)]
struct Facts {
    kind: String,
    body: Vec<u8>,
    sent: Vec<i64>,
    last: Option<RowChange>,
    replaced_at: Option<i64>,
    /// The reason or error of its first failure.
    first_failure: Option<String>,
}

/// Checks every message.
pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    let mut handled: HashMap<(&str, String, String), i64> = HashMap::new();
    let all = collect_facts(history);
    for (identity, facts) in &all {
        let inbox = identity.id.clone().and_then(|id| history.inbox.get(&(identity.queue.clone(), id)));
        let message = MessageState {
            identity,
            kind: &facts.kind,
            body: &facts.body,
            sent: &facts.sent,
            last: facts.last.as_ref(),
            replaced_at: facts.replaced_at,
            handled: inbox == Some(&identity.fingerprint),
        };
        let before = findings.count();
        message.check_outcome(&mut findings);
        message.check_reason(inbox.is_some(), facts.first_failure.as_deref(), &mut findings);
        message.check_effect(history, &mut findings);
        if findings.count() > before {
            findings.affected.push(identity.clone());
        }
        if let Some((orderid, sku)) = message.line().filter(|_| message.handled) {
            let since = match message.kind {
                "allocate" => history
                    .caused_events
                    .get(&(message.id(), orderid.clone()))
                    .map_or(i64::MAX, |caused| caused.first),
                _ => message.sent.first().copied().unwrap_or(0),
            };
            handled.insert((message.kind, orderid, sku), since);
        }
    }
    check_lines(history, &handled, &mut findings);
    findings
}

/// All messages that were sent or made by an edit.
fn collect_facts(history: &History) -> BTreeMap<MessageIdentity, Facts> {
    let mut all: BTreeMap<MessageIdentity, Facts> = BTreeMap::new();
    for sent in &history.sent_messages {
        let facts = all.entry(sent.identity.clone()).or_default();
        facts.kind.clone_from(&sent.kind);
        facts.body.clone_from(&sent.body);
        facts.sent.push(sent.position);
    }
    for change in history.changes.values().flatten() {
        let Some(row) = change.after.as_ref().or(change.before.as_ref()) else { continue };
        if let Some(before) = change.before.as_ref().filter(|before| before.identity() != row.identity()) {
            let facts = all.entry(before.identity()).or_default();
            facts.replaced_at = Some(change.position);
            facts.last = None;
        }
        let facts = all.entry(row.identity()).or_default();
        if facts.kind.is_empty() {
            facts.kind.clone_from(&row.kind);
            facts.body = row.body();
        }
        if change.before.is_none() && facts.first_failure.is_none() {
            facts.first_failure = Some(row.reason.clone().unwrap_or_else(|| row.error.clone()));
        }
        if facts.last.as_ref().is_none_or(|last| last.position < change.position) {
            facts.last = Some(change.clone());
        }
    }
    all
}

impl MessageState<'_> {
    fn id(&self) -> String {
        self.identity.id.clone().unwrap_or_default()
    }

    /// Its name in findings.
    fn name(&self) -> String {
        let id = self.identity.id.as_deref().unwrap_or("without id");
        format!("{id} ({} {})", self.kind, String::from_utf8_lossy(self.body))
    }

    fn sent_after(&self, position: i64) -> bool {
        self.sent.last().is_some_and(|last| *last > position)
    }

    fn check_outcome(&self, findings: &mut Findings) {
        let row = self.last.and_then(|change| change.after.as_ref().or(change.before.as_ref()));
        let (status, since) = (row.map(|row| row.status.as_str()), self.last.map_or(0, |last| last.position));
        let outcome = match (self.handled, status) {
            (true, None) => "handled",
            (true, Some("resolved")) => "resolved",
            // A message that its sender sent again may be handled; so may a first delivery that was not acknowledged.
            // A retry copy may not.
            (true, Some("discarded"))
                if self.sent.len() > 1 || row.is_some_and(|row| row.generation == 1) =>
            {
                "handled after a discard"
            }
            (true, Some(status)) => {
                return findings.repeated.push(format!("{} is handled and {status}", self.name()));
            }
            (false, Some("dead")) if self.last.is_some_and(|last| last.after.is_none()) => {
                return findings.lost.push(format!("{} was removed while it was dead", self.name()));
            }
            (false, Some("dead")) => "dead",
            (false, Some("discarded")) if self.sent_after(since) => {
                return findings.lost.push(format!(
                    "{} was sent again after its discard and has no new outcome",
                    self.name()
                ));
            }
            (false, Some("discarded")) => "discarded",
            (false, Some(status)) => {
                return findings.lost.push(format!("{} is {status}, not handled", self.name()));
            }
            (false, None) if self.replaced_at.is_some_and(|replaced_at| !self.sent_after(replaced_at)) => {
                "replaced"
            }
            (false, None) => return findings.lost.push(self.name()),
        };
        *findings.outcomes.entry(outcome).or_default() += 1;
    }

    /// Every dead letter and every failed attempt must have an expected reason.
    fn check_reason(&self, id_is_used: bool, first_failure: Option<&str>, findings: &mut Findings) {
        let expectation = expectation(self.identity.id.as_deref(), self.kind, self.body);
        let conflict = id_is_used && !self.handled;
        if self.handled && matches!(expectation, Expectation::Dead(_)) {
            findings.violations.push(format!("{} was handled", self.name()));
        }
        let row = self.last.and_then(|change| change.after.as_ref()).filter(|row| row.status == "dead");
        if let Some(reason) = row.and_then(|row| row.reason.as_deref()) {
            let expected = conflict && reason == "message_id_conflict"
                || match expectation {
                    Expectation::Handled => false,
                    Expectation::Rejected => reason == "rejected",
                    Expectation::Dead(expected) => reason == expected,
                };
            if !expected {
                findings.violations.push(format!("{} is dead-lettered: {reason}", self.name()));
            }
        } else if let Some(failure) =
            first_failure.filter(|_| expectation == Expectation::Handled && !conflict)
        {
            findings.violations.push(format!("{} failed unexpectedly: {failure}", self.name()));
        }
    }

    /// A handled message has its effect once, any other message has none.
    fn check_effect(&self, history: &History, findings: &mut Findings) {
        let Some(command) = parse_object(self.body) else { return };
        let text = |field: &str| command[field].as_str().unwrap_or_default().to_owned();
        let caused = history.caused_events.get(&(self.id(), text("orderid")));
        let events = |names: &[&str]| {
            let count =
                |name: &&str| caused.and_then(|caused| caused.events.get(*name)).map_or(0, BTreeSet::len);
            names.iter().map(count).sum::<usize>()
        };
        let (times, optional) = match self.kind {
            "allocate" => (events(&["allocated", "out_of_stock"]), false),
            // Deallocating a line that does not exist or has no batch causes no event.
            "deallocate" => (events(&["deallocated"]), true),
            "create_batch" => (times_created(history, &command, self.handled), false),
            "change_batch_quantity" => {
                let change = (text("batchref"), command["qty"].as_i64().unwrap_or(-1));
                (history.quantities.get(&change).copied().unwrap_or(0), false)
            }
            _ => (0, true),
        };
        match (self.handled, times) {
            (true, 0) if !optional => {
                findings.lost.push(format!("{} is handled without effect", self.name()));
            }
            (true, 2..) => findings.repeated.push(format!("{} ×{times}", self.name())),
            (false, 1..) => {
                findings.repeated.push(format!("{} is not handled, but has an effect", self.name()));
            }
            _ => {}
        }
    }

    /// Its order and SKU, if it concerns a line.
    fn line(&self) -> Option<(String, String)> {
        let command = parse_object(self.body).filter(|_| matches!(self.kind, "allocate" | "deallocate"))?;
        Some((command["orderid"].as_str()?.to_owned(), command["sku"].as_str()?.to_owned()))
    }
}

/// How often a batch was created by this command. Another command for the same batch is rejected.
fn times_created(history: &History, command: &Value, handled: bool) -> usize {
    let reference = command["ref"].as_str().unwrap_or_default();
    let times = history.created_batches.get(reference).copied().unwrap_or(0);
    // Several commands create this batch; only one of them is handled.
    if reference.starts_with("initial-") && !handled { times.saturating_sub(1) } else { times }
}

/// A line exists if it was requested and not deallocated since. If both commands were in flight at the same time,
/// either order is possible, and the line may or may not exist.
fn check_lines(history: &History, handled: &HashMap<(&str, String, String), i64>, findings: &mut Findings) {
    let find = |kind, line: &(String, String)| handled.get(&(kind, line.0.clone(), line.1.clone()));
    let requested = handled.keys().map(|(_, orderid, sku)| (orderid.clone(), sku.clone()));
    for line in requested.chain(history.lines.iter().cloned()).collect::<BTreeSet<_>>() {
        let (requested, deallocated) = (find("allocate", &line), find("deallocate", &line));
        let exists = history.lines.contains(&line);
        let is_wrong = match (requested, deallocated) {
            (None, _) => exists,
            (Some(_), None) => !exists,
            (Some(requested), Some(deallocated)) => exists && requested < deallocated,
        };
        if is_wrong {
            let state = if exists { "exists" } else { "does not exist" };
            let (requested, deallocated) = (requested.is_some(), deallocated.is_some());
            findings
                .violations
                .push(format!("line {line:?} {state}; requested: {requested}, deallocated: {deallocated}"));
        }
    }
}

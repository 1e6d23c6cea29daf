//! What became of every message: exactly one outcome each, and exactly the effect that belongs to it.
//!
//! A message is handled, dead, discarded, or replaced by an operator's edit, which is another message then. One without
//! any of these is lost; one with two of them, or with its effect twice, is double.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use super::{
    journal::{Change, History, Key},
    traffic::{Expectation, expectation, readable},
};

/// What the checker found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) lost: Vec<String>,
    pub(super) double: Vec<String>,
    pub(super) complaints: Vec<String>,
    /// How many messages had which outcome.
    pub(super) outcomes: BTreeMap<&'static str, usize>,
    /// The messages with which something is wrong.
    pub(super) suspects: Vec<Key>,
}

impl Findings {
    fn count(&self) -> usize {
        self.lost.len() + self.double.len() + self.complaints.len()
    }
}

/// Everything about one message.
struct Message<'a> {
    key: &'a Key,
    kind: &'a str,
    body: &'a [u8],
    /// When it was sent, each time. Never, if it comes from an edit.
    sent: &'a [i64],
    /// The last row of the ledger that is about it, as it was changed last.
    last: Option<&'a Change>,
    /// When an edit has made another message of it.
    replaced: Option<i64>,
    handled: bool,
}

/// What is gathered about a message before it is judged.
#[derive(Default)]
struct Facts {
    kind: String,
    body: Vec<u8>,
    sent: Vec<i64>,
    last: Option<Change>,
    replaced: Option<i64>,
    /// Why it failed for the first time.
    failed: Option<String>,
}

/// Judges every message.
pub(super) fn judge(history: &History) -> Findings {
    let mut findings = Findings::default();
    let mut handled: HashMap<(&str, String, String), i64> = HashMap::new();
    let all = gather(history);
    for (key, facts) in &all {
        let inbox = key.id.clone().and_then(|id| history.inbox.get(&(key.queue.clone(), id)));
        let message = Message {
            key,
            kind: &facts.kind,
            body: &facts.body,
            sent: &facts.sent,
            last: facts.last.as_ref(),
            replaced: facts.replaced,
            handled: inbox == Some(&key.fingerprint),
        };
        let before = findings.count();
        message.outcome(&mut findings);
        message.reason(inbox.is_some(), facts.failed.as_deref(), &mut findings);
        message.effect(history, &mut findings);
        if findings.count() > before {
            findings.suspects.push(key.clone());
        }
        if let Some((orderid, sku)) = message.line().filter(|_| message.handled) {
            let since = match message.kind {
                "allocate" => history
                    .caused
                    .get(&(message.id(), orderid.clone()))
                    .map_or(i64::MAX, |caused| caused.first),
                _ => message.sent.first().copied().unwrap_or(0),
            };
            handled.insert((message.kind, orderid, sku), since);
        }
    }
    lines(history, &handled, &mut findings);
    findings
}

/// All messages that were sent, and those that edits made.
fn gather(history: &History) -> BTreeMap<Key, Facts> {
    let mut all: BTreeMap<Key, Facts> = BTreeMap::new();
    for sending in &history.sendings {
        let facts = all.entry(sending.key.clone()).or_default();
        facts.kind.clone_from(&sending.kind);
        facts.body.clone_from(&sending.body);
        facts.sent.push(sending.position);
    }
    for change in history.changes.values().flatten() {
        let Some(row) = change.after.as_ref().or(change.before.as_ref()) else { continue };
        if let Some(before) = change.before.as_ref().filter(|before| before.key() != row.key()) {
            let facts = all.entry(before.key()).or_default();
            facts.replaced = Some(change.position);
            facts.last = None;
        }
        let facts = all.entry(row.key()).or_default();
        if facts.kind.is_empty() {
            facts.kind.clone_from(&row.kind);
            facts.body = row.body();
        }
        if change.before.is_none() && facts.failed.is_none() {
            facts.failed = Some(row.reason.clone().unwrap_or_else(|| row.error.clone()));
        }
        if facts.last.as_ref().is_none_or(|last| last.position < change.position) {
            facts.last = Some(change.clone());
        }
    }
    all
}

impl Message<'_> {
    fn id(&self) -> String {
        self.key.id.clone().unwrap_or_default()
    }

    /// How it is called in what the checker says.
    fn name(&self) -> String {
        let id = self.key.id.as_deref().unwrap_or("without id");
        format!("{id} ({} {})", self.kind, String::from_utf8_lossy(self.body))
    }

    fn sent_after(&self, position: i64) -> bool {
        self.sent.last().is_some_and(|last| *last > position)
    }

    fn outcome(&self, findings: &mut Findings) {
        let row = self.last.and_then(|change| change.after.as_ref().or(change.before.as_ref()));
        let (status, since) = (row.map(|row| row.status.as_str()), self.last.map_or(0, |last| last.position));
        let outcome = match (self.handled, status) {
            (true, None) => "handled",
            (true, Some("resolved")) => "resolved",
            // What its sender sent again is handled; so is the first delivery if it was never acknowledged. A copy that
            // the relay published for a retry may not be.
            (true, Some("discarded"))
                if self.sent.len() > 1 || row.is_some_and(|row| row.generation == 1) =>
            {
                "handled after a discard"
            }
            (true, Some(status)) => {
                return findings.double.push(format!("{} is handled and {status}", self.name()));
            }
            (false, Some("dead")) if self.last.is_some_and(|last| last.after.is_none()) => {
                return findings.lost.push(format!("{} was removed while it was dead", self.name()));
            }
            (false, Some("dead")) => "dead",
            (false, Some("discarded")) if self.sent_after(since) => {
                return findings.lost.push(format!("{} was sent again after its discard", self.name()));
            }
            (false, Some("discarded")) => "discarded",
            (false, Some(status)) => {
                return findings.lost.push(format!("{} is {status}, not handled", self.name()));
            }
            (false, None) if self.replaced.is_some_and(|replaced| !self.sent_after(replaced)) => "replaced",
            (false, None) => return findings.lost.push(self.name()),
        };
        *findings.outcomes.entry(outcome).or_default() += 1;
    }

    /// Nothing is dead, or was tried in vain, that had no reason to be.
    fn reason(&self, id_is_used: bool, failed: Option<&str>, findings: &mut Findings) {
        let expectation = expectation(self.key.id.as_deref(), self.kind, self.body);
        let conflict = id_is_used && !self.handled;
        if self.handled && matches!(expectation, Expectation::Dead(_)) {
            findings.complaints.push(format!("{} was handled", self.name()));
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
                findings.complaints.push(format!("{} is dead: {reason}", self.name()));
            }
        } else if let Some(why) = failed.filter(|_| expectation == Expectation::Handled && !conflict) {
            findings.complaints.push(format!("{} failed at first: {why}", self.name()));
        }
    }

    /// Once if it was handled; not at all if it was not.
    fn effect(&self, history: &History, findings: &mut Findings) {
        let Some(command) = readable(self.body) else { return };
        let text = |field: &str| command[field].as_str().unwrap_or_default().to_owned();
        let caused = history.caused.get(&(self.id(), text("orderid")));
        let events = |names: &[&str]| {
            let of =
                |name: &&str| caused.and_then(|caused| caused.events.get(*name)).map_or(0, BTreeSet::len);
            names.iter().map(of).sum::<usize>()
        };
        let (times, optional) = match self.kind {
            "allocate" => (events(&["allocated", "out_of_stock"]), false),
            // A line that is not there, or waits, is cancelled without an event.
            "deallocate" => (events(&["deallocated"]), true),
            "create_batch" => (created(history, &command, self.handled), false),
            "change_batch_quantity" => {
                let wanted = (text("batchref"), command["qty"].as_i64().unwrap_or(-1));
                (history.counted.get(&wanted).copied().unwrap_or(0), false)
            }
            _ => (0, true),
        };
        match (self.handled, times) {
            (true, 0) if !optional => {
                findings.lost.push(format!("{} is handled without effect", self.name()));
            }
            (true, 2..) => findings.double.push(format!("{} ×{times}", self.name())),
            (false, 1..) => findings.double.push(format!("{} is not handled, but done", self.name())),
            _ => {}
        }
    }

    /// The order and the SKU it is about, if it is about a line.
    fn line(&self) -> Option<(String, String)> {
        let command = readable(self.body).filter(|_| matches!(self.kind, "allocate" | "deallocate"))?;
        Some((command["orderid"].as_str()?.to_owned(), command["sku"].as_str()?.to_owned()))
    }
}

/// How often a batch was created; never by another command for the same batch, which is rejected.
fn created(history: &History, command: &Value, handled: bool) -> usize {
    let reference = command["ref"].as_str().unwrap_or_default();
    let times = history.created.get(reference).copied().unwrap_or(0);
    // Several commands are about this one; only one of them is handled.
    if reference.starts_with("anchor-") && !handled { times.saturating_sub(1) } else { times }
}

/// A line is there if it was asked for and not cancelled since. Where both commands were under way at the same time, one
/// may have overtaken the other: then it may be there or not.
fn lines(history: &History, handled: &HashMap<(&str, String, String), i64>, findings: &mut Findings) {
    let find = |kind, line: &(String, String)| handled.get(&(kind, line.0.clone(), line.1.clone()));
    let asked = handled.keys().map(|(_, orderid, sku)| (orderid.clone(), sku.clone()));
    for line in asked.chain(history.lines.iter().cloned()).collect::<BTreeSet<_>>() {
        let (requested, cancelled) = (find("allocate", &line), find("deallocate", &line));
        let there = history.lines.contains(&line);
        let wrong = match (requested, cancelled) {
            (None, _) => there,
            (Some(_), None) => !there,
            (Some(requested), Some(cancelled)) => there && requested < cancelled,
        };
        if wrong {
            let seen = if there { "is there" } else { "is not there" };
            let (requested, cancelled) = (requested.is_some(), cancelled.is_some());
            findings
                .complaints
                .push(format!("the line {line:?} {seen}; requested: {requested}, cancelled: {cancelled}"));
        }
    }
}

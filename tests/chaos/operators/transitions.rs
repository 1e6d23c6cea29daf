//! The recorded history: a failed message makes only the transitions of the contract, and each operator call has
//! exactly the recorded actions that it reported, on messages that it targets.

use std::collections::{HashMap, HashSet};

use super::{
    journal::{FailedMessageRow, History, MessageIdentity, RecordedAction, RowChange},
    operator::{CallReport, is_targeted},
    plan::Subcommand,
};
use crate::switches::NO_SPACE;

/// The attempt after which a message is dead (`retry.max_attempts`).
pub(super) const MAX_ATTEMPTS: i64 = 3;

/// The violations in the history.
pub(super) fn check(history: &History, reports: &[CallReport]) -> Vec<String> {
    let mut sent: HashMap<&MessageIdentity, Vec<i64>> = HashMap::new();
    for message in &history.sent_messages {
        sent.entry(&message.identity).or_default().push(message.position);
    }
    let mut violations = Vec::new();
    for (id, changes) in &history.changes {
        for change in changes {
            let row = change.after.as_ref().or(change.before.as_ref());
            let identity = row.map(FailedMessageRow::identity);
            let times = identity.as_ref().and_then(|identity| sent.get(identity)).map_or(0, Vec::len);
            if let Some(error) = transition_error(history, *id, change, times > 1) {
                let name = row.map(|row| format!("{:?} {}", row.message_id, row.kind)).unwrap_or_default();
                violations.push(format!("failed message {id} ({name}) {error}"));
            }
        }
    }
    violations.extend(check_calls(history, reports));
    violations
}

/// The violation of one change. A message that was sent several times may fail again without an action, and so may
/// one whose first delivery was not acknowledged: its attempts start at 1 then.
fn transition_error(history: &History, id: i64, change: &RowChange, sent_repeatedly: bool) -> Option<String> {
    let acted = |names: &[&str]| history.has_action(id, &change.transaction, names);
    let (before, after) = match (&change.before, &change.after) {
        (_, Some(after)) if after.error.contains(NO_SPACE) => {
            return Some("failed because of an outage".into());
        }
        (None, Some(after)) => return attempts_error(after),
        (Some(before), None) => {
            let ended = matches!(before.status.as_str(), "resolved" | "discarded");
            return (!ended).then(|| format!("was removed with the status {}", before.status));
        }
        (Some(before), Some(after)) => (before, after),
        (None, None) => return None,
    };
    let sent_repeatedly = sent_repeatedly || (after.generation > before.generation && after.attempts == 1);
    let permitted = match (before.status.as_str(), after.status.as_str()) {
        (before, after) if before == after => true,
        ("retrying" | "waiting", "dead") => return attempts_error(after),
        ("retrying" | "waiting" | "dead", "resolved") | ("retrying", "waiting") | ("waiting", "retrying") => {
            true
        }
        ("dead" | "retrying" | "waiting", "discarded") => acted(&["discard"]),
        ("dead", "retrying" | "waiting") => sent_repeatedly || acted(&["retry", "edit"]),
        ("discarded", "dead") => sent_repeatedly || acted(&["restore"]),
        ("discarded", "retrying" | "waiting" | "resolved") => sent_repeatedly,
        _ => false,
    };
    (!permitted).then(|| format!("changed from {} to {}", before.status, after.status))
}

/// A rejected message is dead after exactly its last attempt.
fn attempts_error(after: &FailedMessageRow) -> Option<String> {
    let rejected = after.status == "dead" && after.reason.as_deref() == Some("rejected");
    (rejected && after.attempts != MAX_ATTEMPTS).then(|| format!("is dead after {} attempts", after.attempts))
}

/// Every recorded action belongs to a call, with the reported count per call, and to a message that the call targets.
fn check_calls(history: &History, reports: &[CallReport]) -> Vec<String> {
    let mut violations = Vec::new();
    let call_ids: HashSet<_> = reports.iter().map(|call| call.why.as_str()).collect();
    let mut by_call: HashMap<&str, Vec<&RecordedAction>> = HashMap::new();
    for action in &history.actions {
        match action.why.as_deref().filter(|why| call_ids.contains(why)) {
            Some(why) => by_call.entry(why).or_default().push(action),
            None => violations
                .push(format!("{} of failed message {} belongs to no call", action.name, action.row)),
        }
    }
    for call in reports {
        let actions = by_call.remove(call.why.as_str()).unwrap_or_default();
        if actions.len() != call.done {
            violations.push(format!("{call:?}: {} actions are recorded", actions.len()));
        }
        for action in actions {
            if action.name != call.action() {
                violations.push(format!("{call:?} is recorded as {}", action.name));
            }
            // An edit changes the row twice; a retry of a retrying message does not start from status dead.
            let row_before =
                row_before(history, action).filter(|_| !matches!(call.subcommand, Subcommand::Edit));
            if let Some(row) = row_before.filter(|row| !is_targeted(call, row)) {
                violations.push(format!(
                    "{call:?} changed failed message {}, which was {} {:?} {} {}",
                    row.id, row.status, row.reason, row.queue, row.kind
                ));
            }
        }
    }
    violations
}

/// The row before an action.
fn row_before<'a>(history: &'a History, action: &RecordedAction) -> Option<&'a FailedMessageRow> {
    let changes = history.changes.get(&action.row)?;
    changes.iter().find(|change| change.transaction == action.transaction)?.before.as_ref()
}

//! What the ledger recorded on the way: only the changes of a failed message that the contract knows, and for each call
//! of an operator exactly the actions that it reported, with the messages that it meant.

use std::collections::{HashMap, HashSet};

use super::{
    journal::{Action, Change, History, Key, Row},
    operator::{CallReport, is_meant},
    plan::What,
};
use crate::switches::NO_SPACE;

/// A message that failed so often is dead.
pub(super) const MAX_ATTEMPTS: i64 = 3;

/// What is wrong with the history of the ledger.
pub(super) fn judge(history: &History, reports: &[CallReport]) -> Vec<String> {
    let mut sent: HashMap<&Key, Vec<i64>> = HashMap::new();
    for sending in &history.sendings {
        sent.entry(&sending.key).or_default().push(sending.position);
    }
    let mut complaints = Vec::new();
    for (id, changes) in &history.changes {
        for change in changes {
            let row = change.after.as_ref().or(change.before.as_ref());
            let key = row.map(Row::key);
            let times = key.as_ref().and_then(|key| sent.get(key)).map_or(0, Vec::len);
            if let Some(wrong) = wrong(history, *id, change, times > 1) {
                let name = row.map(|row| format!("{:?} {}", row.message_id, row.kind)).unwrap_or_default();
                complaints.push(format!("failed message {id} ({name}) {wrong}"));
            }
        }
    }
    complaints.extend(calls(history, reports));
    complaints
}

/// What is wrong with one change. A message that was sent several times may fail again without any action, and so may one
/// whose first delivery was not acknowledged: its attempts begin with the first then.
fn wrong(history: &History, id: i64, change: &Change, sent_again: bool) -> Option<String> {
    let acted = |what: &[&str]| history.acted(id, &change.transaction, what);
    let (before, after) = match (&change.before, &change.after) {
        (_, Some(after)) if after.error.contains(NO_SPACE) => return Some("failed in an outage".into()),
        (None, Some(after)) => return lifetime(after),
        (Some(before), None) => {
            let over = matches!(before.status.as_str(), "resolved" | "discarded");
            return (!over).then(|| format!("was removed while it was {}", before.status));
        }
        (Some(before), Some(after)) => (before, after),
        (None, None) => return None,
    };
    let sent_again = sent_again || (after.generation > before.generation && after.attempts == 1);
    let permitted = match (before.status.as_str(), after.status.as_str()) {
        (before, after) if before == after => true,
        ("retrying" | "waiting", "dead") => return lifetime(after),
        ("retrying" | "waiting" | "dead", "resolved") | ("retrying", "waiting") | ("waiting", "retrying") => {
            true
        }
        ("dead" | "retrying" | "waiting", "discarded") => acted(&["discard"]),
        ("dead", "retrying" | "waiting") => sent_again || acted(&["retry", "edit"]),
        ("discarded", "dead") => sent_again || acted(&["restore"]),
        ("discarded", "retrying" | "waiting" | "resolved") => sent_again,
        _ => false,
    };
    (!permitted).then(|| format!("went from {} to {}", before.status, after.status))
}

/// A rejected message is dead after its last attempt, neither sooner nor later.
fn lifetime(after: &Row) -> Option<String> {
    let rejected = after.status == "dead" && after.reason.as_deref() == Some("rejected");
    (rejected && after.attempts != MAX_ATTEMPTS).then(|| format!("is dead after {} attempts", after.attempts))
}

/// Every recorded action belongs to a call, as many to each as it reported, and to messages that it meant.
fn calls(history: &History, reports: &[CallReport]) -> Vec<String> {
    let mut complaints = Vec::new();
    let known: HashSet<_> = reports.iter().map(|call| call.why.as_str()).collect();
    let mut of_call: HashMap<&str, Vec<&Action>> = HashMap::new();
    for action in &history.actions {
        match action.why.as_deref().filter(|why| known.contains(why)) {
            Some(why) => of_call.entry(why).or_default().push(action),
            None => complaints
                .push(format!("{} of failed message {} belongs to no call", action.what, action.row)),
        }
    }
    for call in reports {
        let actions = of_call.remove(call.why.as_str()).unwrap_or_default();
        if actions.len() != call.done {
            complaints.push(format!("{call:?}: {} actions are recorded", actions.len()));
        }
        for action in actions {
            if action.what != call.action() {
                complaints.push(format!("{call:?} is recorded as {}", action.what));
            }
            // An edit changes the row twice; a retry of what is retried already meets no dead one.
            let met = before(history, action).filter(|_| !matches!(call.what, What::Edit));
            if let Some(row) = met.filter(|row| !is_meant(call, row)) {
                complaints.push(format!(
                    "{call:?} met failed message {}, which was {} {:?} {} {}",
                    row.id, row.status, row.reason, row.queue, row.kind
                ));
            }
        }
    }
    complaints
}

/// The row as an action found it.
fn before<'a>(history: &'a History, action: &Action) -> Option<&'a Row> {
    let changes = history.changes.get(&action.row)?;
    changes.iter().find(|change| change.transaction == action.transaction)?.before.as_ref()
}

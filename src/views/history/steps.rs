//! From records to the steps of a history.

use serde::Serialize;
use time::OffsetDateTime;

use super::records::{Action, Attempt, EventRecord, Failed, Handled, NamedLine};

/// Something that happened to a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HistoryStep {
    /// When it happened, by the clock of the database.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// The kind: `failed`, `waiting`, `dead`, the name of an operator's action, `requeued`, `due`, `handled`, `event`,
    /// `published` or `parked`.
    pub what: String,
    /// The details, for persons.
    pub text: String,
    /// The number of an attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<i32>,
    /// The process that made an attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The version of that process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The trace of an attempt, if it is recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// The sequence number of an event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<i64>,
    /// The result of a publication: `confirmed` or `unroutable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<&'static str>,
}

impl HistoryStep {
    fn new(at: OffsetDateTime, what: impl Into<String>, text: impl Into<String>) -> Self {
        let (what, text) = (what.into(), text.into());
        Self {
            at,
            what,
            text,
            attempt: None,
            host: None,
            version: None,
            trace_id: None,
            sequence: None,
            outcome: None,
        }
    }
}

/// The steps of a failed message, apart from attempts and actions.
pub(super) fn of_failed(failed: &Failed) -> Vec<HistoryStep> {
    let mut steps = Vec::new();
    match failed.status.as_str() {
        "dead" => steps.push(HistoryStep::new(failed.last_failed_at, "dead", death(failed))),
        "waiting" => {
            let text = "recorded, to be handled after an earlier message for its line or batch";
            steps.push(HistoryStep::new(failed.first_failed_at, "waiting", text));
        }
        _ => {}
    }
    if let Some(at) = failed.published_at {
        steps.push(HistoryStep::new(at, "requeued", format!("the latest retry, to {}", failed.queue)));
    }
    if let Some(at) = failed.due_at.filter(|_| failed.status == "retrying" && failed.published_at.is_none()) {
        steps.push(HistoryStep::new(at, "due", "the next retry"));
    }
    steps
}

fn death(failed: &Failed) -> String {
    let reason = failed.reason.as_deref().unwrap_or("unknown");
    let attempts = if failed.attempts == 1 { "attempt" } else { "attempts" };
    let overtaken = failed.overtaken_by.as_deref().map(|by| format!(", overtaken by {by}"));
    format!(
        "{reason}, group {}, after {} {attempts}{}; message {}",
        failed.error_group,
        failed.attempts,
        overtaken.unwrap_or_default(),
        failed.id
    )
}

/// A failed attempt.
pub(super) fn of_attempt(attempt: Attempt) -> HistoryStep {
    let version = attempt.version.as_deref().map(|version| format!(" ({version})")).unwrap_or_default();
    let trace = attempt.trace_id.as_deref().map(|trace| format!(" (trace {trace})")).unwrap_or_default();
    let text = format!("attempt {} on {}{version}: {}{trace}", attempt.number, attempt.host, attempt.error);
    HistoryStep {
        attempt: Some(attempt.number),
        host: Some(attempt.host),
        version: attempt.version,
        trace_id: attempt.trace_id,
        ..HistoryStep::new(attempt.at, "failed", text)
    }
}

/// An action of an operator.
pub(super) fn of_action(action: Action) -> HistoryStep {
    let why = action.why.map(|why| format!(": {why}")).unwrap_or_default();
    HistoryStep::new(action.at, action.what, format!("by {}{why}", action.who))
}

/// A handled message.
pub(super) fn of_handled(handled: &Handled) -> HistoryStep {
    HistoryStep::new(handled.handled_at, "handled", format!("from {}", handled.queue))
}

/// An event with its publication.
pub(super) fn of_event(event: &EventRecord) -> Vec<HistoryStep> {
    let number = format!("{}, number {} of {}", event.name, event.sequence, event.sku);
    let state = match (&event.published_at, &event.refused) {
        (Some(_), _) => "",
        (None, Some(_)) => "; parked",
        (None, None) => "; not published yet",
    };
    let sequence = Some(event.sequence);
    let happened = HistoryStep {
        sequence,
        ..HistoryStep::new(event.committed_at, "event", format!("{number}{}{state}", line_of(event)))
    };
    let mut steps = vec![happened];
    if let Some(at) = event.published_at {
        let outcome = if event.unroutable == Some(true) { "unroutable" } else { "confirmed" };
        let text = format!("{} {}: {outcome}", event.name, event.sequence);
        let step = HistoryStep::new(at, "published", text);
        steps.push(HistoryStep { sequence, outcome: Some(outcome), ..step });
    }
    if let (Some(at), Some(reason)) = (event.refused_at, &event.refused) {
        let text = format!("{} {}: the broker rejected it: {reason}", event.name, event.sequence);
        steps.push(HistoryStep { sequence, ..HistoryStep::new(at, "parked", text) });
    }
    steps
}

/// The line that an event is about.
fn line_of(event: &EventRecord) -> String {
    let Ok(line) = serde_json::from_str::<NamedLine>(&event.body) else { return String::new() };
    let quantity = line.qty.map(|quantity| format!(" ×{quantity}")).unwrap_or_default();
    let batch = line.batchref.map(|batch| format!(" in {batch}")).unwrap_or_default();
    format!(": {}{quantity}{batch}", line.orderid)
}

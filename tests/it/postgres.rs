//! The PostgreSQL adapters: the effect of each statement on every column, for every status and queue.

mod actions;
mod edits;
mod filters;
mod inbox;
mod leader;
mod low_water_mark;
mod model;
mod outbox;
mod purge;
mod recording;
mod retries;
mod retry_checks;
mod starts;
mod totals;

use std::time::Duration;

use allocation::{
    domain::{BodyHash, FailedMessageKey, MessageKey, NewAttempt, RetryDecision},
    ports::failed_messages::Operator,
};

/// The columns of a row of each status, as assignments for [`Database::failed`](crate::harness::Database::failed).
const DEAD: &str = "status = 'dead', reason = 'rejected'";
const RETRYING: &str = "status = 'retrying', reason = null, due_at = now() - interval '2 hours'";
const WAITING: &str = "status = 'waiting', reason = null, due_at = null";
const DISCARDED: &str = "status = 'discarded', ended_at = now() - interval '1 hour'";
const RESOLVED: &str = "status = 'resolved', reason = null, ended_at = now() - interval '1 hour'";
const STATUSES: [(&str, &str); 5] = [
    ("dead", DEAD),
    ("retrying", RETRYING),
    ("waiting", WAITING),
    ("discarded", DISCARDED),
    ("resolved", RESOLVED),
];

/// The key of a message in the inbox; equal numbers are equal bodies.
fn message_key(message_id: &str, kind: &'static str, body: u8) -> MessageKey {
    MessageKey { message_id: message_id.into(), kind, body_hash: BodyHash([body; 16]) }
}

/// The key of a failed message.
fn failed_message_key(message_id: Option<&str>, kind: &str, body: u8) -> FailedMessageKey {
    FailedMessageKey {
        message_id: message_id.map(Into::into),
        kind: kind.into(),
        body_hash: BodyHash([body; 16]),
    }
}

/// A failed attempt.
fn failure(key: FailedMessageKey, generation: i64, next: RetryDecision) -> NewAttempt {
    NewAttempt {
        key,
        ordering_key: None,
        overtaken_by: None,
        generation,
        body: b"a body".as_slice().into(),
        properties: "{\"a\": 1}".into(),
        original: b"properties".into(),
        error: "it failed at 7".into(),
        error_pattern: "it failed at".into(),
        error_group: "group-9".into(),
        chain: vec!["a cause".into(), "its cause".into()],
        attempts: 2,
        duration: Duration::from_millis(1234),
        trace_id: None,
        host: "host-1".into(),
        next,
    }
}

fn operator() -> Operator {
    Operator { who: "an operator".into(), why: Some("a reason".into()) }
}

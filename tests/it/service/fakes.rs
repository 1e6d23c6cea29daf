//! Ports that do what a test says, and messages for them.

mod log;
mod notifier;
mod outbox;
mod publisher;
mod queues;
mod store;

use std::{sync::Arc, time::Duration};

use allocation::{
    domain::RetryDecision,
    ports::{error::StoreError, queue::RetryMark, store::RetryCheck},
    service::{
        archive::Archive, backoff::RetryPolicy, decode::Limits, message_bus::MessageBus,
        notifications::NotificationHandler, outcome::CommandOutcome, policy::FailurePolicy,
        received::ReceivedMessage,
    },
};
use serde_json::json;
use uuid::Uuid;

use crate::harness::command;

pub(super) use log::CapturedLog;
pub(super) use notifier::ScriptedNotifier;
pub(super) use outbox::{OutboxCall, ScriptedOutbox};
pub(super) use publisher::{LosesOutcomes, ScriptedPublisher, relay, run_for};
pub(super) use queues::{RunningConsumer, ScriptedQueues, consumer};
pub(super) use store::{Call, Reply, ScriptedStore};

pub(super) const LIMITS: Limits = Limits { body_bytes: 262_144, header_bytes: 65_536 };

pub(super) fn unavailable() -> StoreError {
    StoreError::Unavailable("no connection".into())
}

pub(super) fn conflict() -> StoreError {
    StoreError::Conflict("deadlock".into())
}

pub(super) fn broken() -> StoreError {
    StoreError::Failed("disk full".into())
}

/// A handler may take ten seconds; a command has three attempts.
fn policy() -> FailurePolicy {
    FailurePolicy {
        handler_timeout: Duration::from_secs(10),
        retry: RetryPolicy { max_attempts: 3, ..RetryPolicy::default() },
        host: "test".into(),
    }
}

pub(super) fn bus(store: &ScriptedStore) -> MessageBus {
    MessageBus::new(Arc::new(store.clone()), policy())
}

pub(super) fn archive(store: &ScriptedStore) -> Archive {
    Archive::new(Arc::new(store.clone()), policy())
}

pub(super) fn notifications(store: &ScriptedStore, notifier: &ScriptedNotifier) -> NotificationHandler {
    NotificationHandler::new(Arc::new(store.clone()), Arc::new(notifier.clone()), policy())
}

/// A command that is handled: a batch of its own.
pub(super) fn batch(id: &str, sku: &str) -> ReceivedMessage {
    command(id, "create_batch", &json!({ "ref": format!("b-{id}"), "sku": sku, "qty": 10 }))
}

/// A command that is rejected: a line of a SKU without batches.
pub(super) fn rejected(id: &str) -> ReceivedMessage {
    line(id, "NO-SUCH-LAMP", 1)
}

/// The same in the queue of batches: a change of a batch that does not exist.
pub(super) fn rejected_change(id: &str) -> ReceivedMessage {
    command(id, "change_batch_quantity", &json!({ "batchref": "no-such-batch", "qty": 1 }))
}

pub(super) fn line(id: &str, sku: &str, qty: u32) -> ReceivedMessage {
    command(id, "allocate", &json!({ "orderid": format!("o-{id}"), "sku": sku, "qty": qty }))
}

/// An event that asks for a mail.
pub(super) fn out_of_stock(id: &str) -> ReceivedMessage {
    command(id, "out_of_stock", &json!({ "orderid": format!("o-{id}"), "sku": "LAMP", "qty": 1 }))
}

pub(super) fn redelivered(mut received: ReceivedMessage) -> ReceivedMessage {
    received.redelivered = true;
    received
}

pub(super) fn awaited(mut received: ReceivedMessage) -> ReceivedMessage {
    received.awaited = true;
    received
}

/// A copy that the relay published.
pub(super) fn retry(mut received: ReceivedMessage, generation: i64) -> (ReceivedMessage, RetryMark) {
    let mark = RetryMark { failed_message_id: 1, generation, secret: Uuid::from_u128(7) };
    received.message.retry = Some(mark);
    (received, mark)
}

/// A message after so many failed attempts: as its sender sent it, and then the current copy that the relay published.
pub(super) fn after_failures(
    store: &ScriptedStore,
    received: ReceivedMessage,
    failures: i64,
) -> ReceivedMessage {
    if failures == 0 {
        return received;
    }
    let (copy, mark) = retry(received, failures);
    store.knows_retry(mark, RetryCheck::Current);
    copy
}

/// Short names of fates.
pub(super) fn names(outcomes: &[CommandOutcome]) -> Vec<&'static str> {
    let name = |outcome: &CommandOutcome| match outcome {
        CommandOutcome::Handled => "handled",
        CommandOutcome::Duplicate => "repeat",
        CommandOutcome::Recorded(_, RetryDecision::Retry(_)) => "retry",
        CommandOutcome::Recorded(_, RetryDecision::Dead(_)) => "dead",
        CommandOutcome::Reported(_) => "refused",
        CommandOutcome::Unknown => "in doubt",
    };
    outcomes.iter().map(name).collect()
}

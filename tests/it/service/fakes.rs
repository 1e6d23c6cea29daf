//! Fake ports with scripted replies, and messages.

mod handler;
mod log;
mod notifier;
mod observer;
mod outbox;
mod publisher;
mod queues;
mod store;

use std::{sync::Arc, time::Duration};

use allocation::{
    domain::RetryDecision,
    ports::{error::StoreError, observer::NoObserver, queue::RetryMark, store::RetryCheck},
    service::{
        archive::Archive, backoff::RetryPolicy, decode::Limits, message_bus::MessageBus,
        notifications::NotificationHandler, outcome::CommandOutcome, policy::FailurePolicy,
        received::ReceivedMessage,
    },
};
use serde_json::json;
use uuid::Uuid;

use crate::harness::command;

pub(crate) use handler::OmitsFirst;
pub(crate) use log::CapturedLog;
pub(crate) use notifier::ScriptedNotifier;
pub(crate) use observer::RecordingObserver;
pub(crate) use outbox::{OutboxCall, ScriptedOutbox};
pub(crate) use publisher::{LosesOutcomes, ScriptedPublisher, relay, run_for};
pub(crate) use queues::{RunningConsumer, ScriptedQueues, consumer};
pub(crate) use store::{Call, Reply, ScriptedStore};

pub(crate) const LIMITS: Limits = Limits { body_bytes: 262_144, header_bytes: 65_536 };

pub(crate) fn unavailable() -> StoreError {
    StoreError::Unavailable("no connection".into())
}

pub(crate) fn conflict() -> StoreError {
    StoreError::Conflict("deadlock".into())
}

pub(crate) fn broken() -> StoreError {
    StoreError::Failed("disk full".into())
}

/// A handler timeout of ten seconds, three attempts, and 100 seconds for a deferred notification.
fn policy() -> FailurePolicy {
    FailurePolicy {
        handler_timeout: Duration::from_secs(10),
        retry: RetryPolicy {
            max_attempts: 3,
            deferred_for: Duration::from_secs(100),
            ..RetryPolicy::default()
        },
        host: "test".into(),
    }
}

pub(crate) fn bus(store: &ScriptedStore) -> MessageBus {
    MessageBus::new(Arc::new(store.clone()), policy(), Arc::new(NoObserver))
}

pub(crate) fn archive(store: &ScriptedStore) -> Archive {
    Archive::new(Arc::new(store.clone()), policy(), Arc::new(NoObserver))
}

pub(crate) fn notifications(store: &ScriptedStore, notifier: &ScriptedNotifier) -> NotificationHandler {
    NotificationHandler::new(
        Arc::new(store.clone()),
        Arc::new(notifier.clone()),
        policy(),
        Arc::new(NoObserver),
    )
}

/// A command that succeeds: a new batch.
pub(crate) fn batch(id: &str, sku: &str) -> ReceivedMessage {
    command(id, "create_batch", &json!({ "ref": format!("b-{id}"), "sku": sku, "qty": 10 }))
}

/// A command that is rejected: a line of an unknown SKU.
pub(crate) fn rejected(id: &str) -> ReceivedMessage {
    line(id, "NO-SUCH-LAMP", 1)
}

/// A command of the queue `stock` that is rejected: a change of an unknown batch.
pub(crate) fn rejected_change(id: &str) -> ReceivedMessage {
    command(id, "change_batch_quantity", &json!({ "batchref": format!("no-such-batch-{id}"), "qty": 1 }))
}

pub(crate) fn line(id: &str, sku: &str, qty: u32) -> ReceivedMessage {
    command(id, "allocate", &json!({ "orderid": format!("o-{id}"), "sku": sku, "qty": qty }))
}

/// An event that causes a mail.
pub(crate) fn out_of_stock(id: &str) -> ReceivedMessage {
    command(id, "out_of_stock", &json!({ "orderid": format!("o-{id}"), "sku": "LAMP", "qty": 1 }))
}

pub(crate) fn redelivered(mut received: ReceivedMessage) -> ReceivedMessage {
    received.redelivered = true;
    received
}

pub(crate) fn awaited(mut received: ReceivedMessage) -> ReceivedMessage {
    received.awaited = true;
    received
}

/// A copy that the relay published for a retry, and its mark.
pub(crate) fn retry(mut received: ReceivedMessage, generation: i64) -> (ReceivedMessage, RetryMark) {
    let mark = RetryMark { failed_message_id: 1, generation, secret: Uuid::from_u128(7) };
    received.message.retry = Some(mark);
    (received, mark)
}

/// A message after this number of failed attempts: the first delivery is from its sender, later ones are current copies.
pub(crate) fn after_failures(
    store: &ScriptedStore,
    received: ReceivedMessage,
    failures: i64,
) -> ReceivedMessage {
    if failures == 0 {
        return received;
    }
    let (copy, mark) = retry(received, failures);
    store.set_retry_check(mark, RetryCheck::Current);
    copy
}

/// Short names of outcomes.
pub(crate) fn names(outcomes: &[CommandOutcome]) -> Vec<&'static str> {
    let name = |outcome: &CommandOutcome| match outcome {
        CommandOutcome::Handled => "handled",
        CommandOutcome::Duplicate => "duplicate",
        CommandOutcome::Recorded(_, record) => match record.decision {
            RetryDecision::Retry(_) => "retry",
            RetryDecision::Dead(_) => "dead",
            RetryDecision::Postpone(_) => "postponed",
            RetryDecision::Wait => "waits",
        },
        CommandOutcome::Reported(_) => "reported",
        CommandOutcome::Unknown => "unknown",
    };
    outcomes.iter().map(name).collect()
}

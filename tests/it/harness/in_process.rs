//! A message bus in the test's own process.

use std::{sync::Arc, time::Duration};

use allocation::{
    adapters::memory::RecordingNotifier,
    ports::{
        queue::{Message, QueueName},
        store::Store,
    },
    service::{
        backoff::RetryPolicy,
        decode::Limits,
        message_bus::{FailurePolicy, MessageBus},
        received::ReceivedMessage,
    },
};
use serde_json::Value;

use super::season::Command;

/// The sizes that a message may have.
pub(crate) const LIMITS: Limits = Limits { body_bytes: 262_144, header_bytes: 65_536 };

/// A bus over a store, in this process; its notices are dropped.
pub(crate) fn bus(store: Arc<dyn Store>) -> MessageBus {
    bus_that_tells(store, RecordingNotifier::default())
}

/// A bus over a store, in this process.
pub(crate) fn bus_that_tells(store: Arc<dyn Store>, notifications: RecordingNotifier) -> MessageBus {
    let policy = FailurePolicy {
        handler_timeout: Duration::from_secs(30),
        retry: RetryPolicy::default(),
        host: "test".into(),
    };
    MessageBus::new(store, Arc::new(notifications), policy)
}

/// A message with a command.
pub(crate) fn message(message_id: &str, kind: &str, body: &Value) -> Message {
    Message {
        kind: kind.into(),
        message_id: Some(message_id.into()),
        body: body.to_string().into_bytes(),
        ..Message::default()
    }
}

/// A command as the bus takes it.
pub(crate) fn command(message_id: &str, kind: &str, body: &Value) -> ReceivedMessage {
    ReceivedMessage::read(message(message_id, kind, body), false, LIMITS)
}

/// The queue of a command.
pub(crate) fn queue_of(command: &Command) -> QueueName {
    if command.queue() == "orders" { QueueName::Orders } else { QueueName::Stock }
}

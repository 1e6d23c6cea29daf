//! Message handlers in the process of the test.

use std::{sync::Arc, time::Duration};

use allocation::{
    adapters::memory::RecordingNotifier,
    entrypoints::prefetch::PrefetchLimits,
    ports::{
        observer::NoObserver,
        queue::{Message, QueueName},
        routing,
        store::Store,
    },
    service::{
        backoff::RetryPolicy,
        batch_handler::{BatchHandler, HandleError},
        decode::Limits,
        message_bus::MessageBus,
        notifications::NotificationHandler,
        outcome::CommandOutcome,
        policy::FailurePolicy,
        received::ReceivedMessage,
    },
};
use serde_json::Value;

use super::commands::Command;

/// Enough deliveries for every test, of any size.
pub(crate) const PREFETCH: PrefetchLimits = PrefetchLimits { messages: 100, bytes: usize::MAX };
/// The limits of the size of a message.
pub(crate) const LIMITS: Limits = Limits { body_bytes: 262_144, header_bytes: 65_536 };

/// How failures are treated.
pub(crate) fn policy() -> FailurePolicy {
    FailurePolicy {
        handler_timeout: Duration::from_secs(30),
        retry: RetryPolicy::default(),
        host: "test".into(),
    }
}

/// A message bus with a store.
pub(crate) fn bus(store: Arc<dyn Store>) -> MessageBus {
    MessageBus::new(store, policy(), Arc::new(NoObserver))
}

/// A handler of notifications with a store.
pub(crate) fn notification_handler(
    store: Arc<dyn Store>,
    notifier: RecordingNotifier,
) -> NotificationHandler {
    NotificationHandler::new(store, Arc::new(notifier), policy(), Arc::new(NoObserver))
}

/// A handler failed before all messages had an outcome.
#[derive(Debug)]
pub(crate) struct Interrupted {
    /// The outcomes so far.
    pub(crate) outcomes: Vec<CommandOutcome>,
    pub(crate) error: HandleError,
}

/// Handles messages and returns their outcomes.
pub(crate) trait HandleAll {
    fn handle_all(
        &self,
        queue: QueueName,
        messages: &mut [ReceivedMessage],
    ) -> impl Future<Output = Result<Vec<CommandOutcome>, Interrupted>> + Send;
}

impl<H: BatchHandler> HandleAll for H {
    async fn handle_all(
        &self,
        queue: QueueName,
        messages: &mut [ReceivedMessage],
    ) -> Result<Vec<CommandOutcome>, Interrupted> {
        let mut batch: Vec<_> = messages.iter_mut().collect();
        let handled = self.handle(queue, &mut batch).await;
        let outcomes: Vec<_> = messages.iter_mut().filter_map(ReceivedMessage::take_outcome).collect();
        match handled {
            Ok(()) => {
                assert_eq!(outcomes.len(), messages.len(), "each message has an outcome");
                Ok(outcomes)
            }
            Err(error) => Err(Interrupted { outcomes, error }),
        }
    }
}

/// A message with a command.
pub(crate) fn message(message_id: &str, kind: &str, body: &Value) -> Message {
    Message {
        kind: kind.into(),
        message_id: Some(message_id.into()),
        body: body.to_string().into_bytes().into(),
        ..Message::default()
    }
}

/// A message as a handler receives it from its queue.
pub(crate) fn command(message_id: &str, kind: &str, body: &Value) -> ReceivedMessage {
    received(message(message_id, kind, body))
}

/// Any message as a handler receives it from its queue.
pub(crate) fn received(message: Message) -> ReceivedMessage {
    let queue = routing::queue_of(&message.kind).unwrap_or(QueueName::Orders);
    ReceivedMessage::read(queue, message, false, LIMITS)
}

/// The queue of a command.
pub(crate) fn queue_of(command: &Command) -> QueueName {
    if command.queue() == "orders" { QueueName::Orders } else { QueueName::Stock }
}

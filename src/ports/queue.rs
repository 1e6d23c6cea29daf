//! Durable queues that redeliver unacknowledged messages.

use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use super::error::BrokerError;

/// The queues of the service, without the namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QueueName {
    /// Commands about order lines.
    Orders,
    /// Commands about batches.
    Stock,
    /// Events to notify people of.
    Notifications,
}

impl QueueName {
    /// All queues.
    pub const ALL: [Self; 3] = [Self::Orders, Self::Stock, Self::Notifications];

    /// The name without namespace.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Orders => "orders",
            Self::Stock => "stock",
            Self::Notifications => "notifications",
        }
    }
}

/// The end of the name of a queue for the messages that cannot be decoded.
pub const UNREADABLE: &str = ".unreadable";

/// The properties and headers of a message, as the client library received them.
pub trait RawProperties: std::fmt::Debug + Send + Sync {
    /// JSON with `properties` and `headers`, for display.
    fn to_json(&self) -> String;

    /// The exact properties, for a retry.
    fn to_bytes(&self) -> Vec<u8>;
}

/// The mark of a copy of a failed message that the relay published. A sender cannot guess the secret, so a mark with the
/// secret is genuine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RetryMark {
    /// The id of the failed message.
    pub failed_message_id: i64,
    /// The generation of the failed message when the copy was published.
    pub generation: i64,
    /// The secret of the failed message.
    pub secret: Uuid,
}

/// A message as it was received.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// Its `type`, or the routing key if it has none.
    pub kind: String,
    /// The sender's id of the message.
    pub message_id: Option<String>,
    /// The sender's correlation id.
    pub correlation_id: Option<String>,
    /// The sender's W3C trace context.
    pub traceparent: Option<String>,
    /// What the systems of that trace add to it.
    pub tracestate: Option<String>,
    /// The media type of the body.
    pub content_type: Option<String>,
    /// The encoding of the body.
    pub content_encoding: Option<String>,
    /// The size of the headers, in bytes.
    pub header_bytes: usize,
    /// The retry mark, if the message has one.
    pub retry: Option<RetryMark>,
    /// Why the broker dead-lettered it, if it did.
    pub death_reason: Option<String>,
    /// The body.
    pub body: Arc<[u8]>,
    /// Its properties and headers.
    pub original: Option<Arc<dyn RawProperties>>,
}

impl Message {
    /// The bytes of body and headers.
    #[must_use]
    pub fn size(&self) -> usize {
        self.body.len() + self.header_bytes
    }
}

/// A delivered, unacknowledged message.
#[derive(Debug)]
pub struct Delivery {
    /// Its tag on the subscription.
    pub tag: u64,
    /// Whether it may have been delivered before.
    pub redelivered: bool,
    /// The message.
    pub message: Message,
}

/// A queue, or its dead-letter queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QueueKind {
    /// The queue itself.
    Main,
    /// The messages that the broker dead-lettered from it.
    DeadLetter,
}

impl QueueKind {
    /// Both kinds.
    pub const ALL: [Self; 2] = [Self::Main, Self::DeadLetter];

    /// The name in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::DeadLetter => "dead_letter",
        }
    }
}

/// Opens subscriptions.
#[async_trait]
pub trait Queues: Send + Sync {
    /// Subscribes to a queue, or to its dead-letter queue, on a connection of its own. At most `prefetch` deliveries are
    /// unacknowledged at any time, and `bytes` may be received before more are
    /// [allowed](FlowControl::allow).
    ///
    /// # Errors
    /// [`BrokerError`] if the broker is unavailable or refuses.
    async fn subscribe(
        &self,
        queue: QueueName,
        queue_kind: QueueKind,
        prefetch: u16,
        bytes: usize,
    ) -> Result<Box<dyn Subscription>, BrokerError>;
}

/// A stream of deliveries. When it is dropped, its unacknowledged messages are requeued.
#[async_trait]
pub trait Subscription: Send {
    /// Waits for the next delivery. Cancelling the wait loses none.
    ///
    /// # Errors
    /// The subscription is closed; its unacknowledged messages will be redelivered.
    async fn next(&mut self) -> Result<Delivery, BrokerError>;

    /// Limits the bytes that the subscription receives; `None` if it has no limit.
    fn flow_control(&self) -> Option<Arc<dyn FlowControl>> {
        None
    }

    /// Acknowledges deliveries, from any task.
    fn acknowledger(&self) -> Arc<dyn Acknowledger>;

    /// Writes the remaining acknowledgements and returns the other messages. They are redelivered in order, before later
    /// messages.
    async fn close(self: Box<Self>);
}

/// Limits the bytes that a subscription receives.
#[async_trait]
pub trait FlowControl: Send + Sync {
    /// Allows so many more bytes to be received.
    fn allow(&self, bytes: usize);

    /// Waits until no more bytes may be received.
    async fn exhausted(&self);
}

/// Acknowledges deliveries of one subscription.
#[async_trait]
pub trait Acknowledger: Send + Sync {
    /// Acknowledges deliveries. If the subscription is closed, this has no effect: the messages are redelivered, and the inbox
    /// and the failed messages contain them.
    async fn ack(&self, tags: &[u64]);

    /// Whether the subscription is closed, so that its deliveries would be handled twice.
    fn is_closed(&self) -> bool;
}

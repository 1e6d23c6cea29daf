//! Where commands come from: a durable queue that redelivers what is not acknowledged.

use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use super::error::BrokerError;

/// The queues the service works on, by their short names; the namespace is put before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QueueName {
    /// Customers' lines.
    Orders,
    /// Batches.
    Stock,
    /// Mail to be sent.
    Notifications,
}

impl QueueName {
    /// All of them.
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

/// How many deliveries a subscription may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefetch {
    /// As many as the settings say.
    Configured,
    /// One: what breaks the subscription then is that one, and nobody else is counted as delivered.
    One,
}

/// A message's properties and headers, kept as the client library has them until somebody asks.
pub trait RawProperties: std::fmt::Debug + Send + Sync {
    /// For people: JSON of `properties` and `headers`.
    fn to_json(&self) -> String;

    /// Exactly, for whoever publishes the message again.
    fn to_bytes(&self) -> Vec<u8>;
}

/// What the relay puts on a copy of a failed message. A sender cannot guess the secret, so a mark that carries it is
/// genuine, however old the copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RetryMark {
    /// The failed message that this is a copy of.
    pub failed_message_id: i64,
    /// The generation that the failed message had when the copy was published.
    pub generation: i64,
    /// The failed message's secret.
    pub secret: Uuid,
}

/// A message as it was sent.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// What it asks for: its `type`, or the routing key if it has none.
    pub kind: String,
    /// The sender's id of it, if there is one.
    pub message_id: Option<String>,
    /// The sender's correlation id, if there is one.
    pub correlation_id: Option<String>,
    /// The sender's W3C trace, if there is one.
    pub traceparent: Option<String>,
    /// What the sender says the body is, if anything.
    pub content_type: Option<String>,
    /// How the sender says the body is packed, if at all.
    pub content_encoding: Option<String>,
    /// The size of the headers, in bytes.
    pub header_bytes: usize,
    /// Set on a copy that the relay published for a retry.
    pub retry: Option<RetryMark>,
    /// Why the broker put it aside, if it did.
    pub death_reason: Option<String>,
    /// The bytes.
    pub body: Vec<u8>,
    /// Everything it came with.
    pub original: Option<Arc<dyn RawProperties>>,
}

/// A message that was handed to us and is ours until it is settled.
#[derive(Debug)]
pub struct Delivery {
    /// Its number on this subscription.
    pub tag: u64,
    /// Whether it was handed to somebody before.
    pub redelivered: bool,
    /// The message.
    pub message: Message,
}

/// Where messages of a queue wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueKind {
    /// To be handled.
    Main,
    /// Put aside by the broker.
    DeadLetter,
}

/// Opens subscriptions.
#[async_trait]
pub trait Queues: Send + Sync {
    /// Subscribes to a queue, or to what the broker put aside from it, on a connection of its own.
    ///
    /// # Errors
    /// [`BrokerError`] if the server cannot be reached or refuses.
    async fn subscribe(
        &self,
        queue: QueueName,
        queue_kind: QueueKind,
        prefetch: Prefetch,
    ) -> Result<Box<dyn Subscription>, BrokerError>;
}

/// A stream of deliveries. Dropping it gives back what was not settled.
#[async_trait]
pub trait Subscription: Send {
    /// Waits for the next delivery. Cancelling the wait loses none.
    ///
    /// # Errors
    /// The subscription is over: what was not settled will be delivered again to whoever subscribes.
    async fn next(&mut self) -> Result<Delivery, BrokerError>;

    /// Through which deliveries are settled, from any task.
    fn acknowledger(&self) -> Arc<dyn Acknowledger>;

    /// Waits until everything that was settled is with the server, and gives back the rest. It is delivered again in
    /// its order, before anything that came after it.
    async fn close(self: Box<Self>);
}

/// Settles deliveries of one subscription.
#[async_trait]
pub trait Acknowledger: Send + Sync {
    /// Says that deliveries are done with and may be forgotten. If the subscription is over nothing happens: they
    /// are delivered again, and the inbox and the failed messages have them.
    async fn ack(&self, tags: &[u64]);

    /// Whether the subscription is over, so that work on its deliveries would be done twice.
    fn is_closed(&self) -> bool;
}

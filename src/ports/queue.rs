//! Where commands come from: a durable queue that redelivers what is not acknowledged.

use std::sync::Arc;

use async_trait::async_trait;

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

/// Why the queue's server cannot be used now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the broker is away: {0}")]
pub struct BrokerError(pub String);

/// A message as it was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// What it asks for: its `type`, or the routing key if it has none.
    pub kind: String,
    /// The sender's id of it, if there is one.
    pub message_id: Option<String>,
    /// The sender's correlation id, if there is one.
    pub correlation_id: Option<String>,
    /// The sender's W3C trace, if there is one.
    pub traceparent: Option<String>,
    /// The bytes.
    pub body: Vec<u8>,
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

/// How a delivery ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It is done with; the queue may forget it.
    Done,
    /// It cannot be handled; the queue puts it aside.
    Refused,
}

/// Opens subscriptions.
#[async_trait]
pub trait Queues: Send + Sync {
    /// Subscribes to a queue on a connection of its own.
    ///
    /// # Errors
    /// [`BrokerError`] if the server cannot be reached or refuses.
    async fn subscribe(&self, queue: QueueName) -> Result<Box<dyn Subscription>, BrokerError>;
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
    fn settler(&self) -> Arc<dyn Settler>;

    /// Asks for no more deliveries and gives back at once all that were not settled.
    async fn close(self: Box<Self>);
}

/// Settles deliveries of one subscription.
#[async_trait]
pub trait Settler: Send + Sync {
    /// Settles deliveries by tag. If the subscription is over nothing happens: they are delivered again, and the
    /// inbox knows them.
    async fn settle(&self, deliveries: &[(u64, Settlement)]);

    /// Whether the subscription is over, so that work on its deliveries would be done twice.
    fn is_over(&self) -> bool;
}

//! What the leading relay measures.

use std::time::Duration;

use async_trait::async_trait;

use crate::{
    domain::{StatusKind, named_values},
    ports::{
        error::{BrokerError, StoreError},
        queue::QueueName,
    },
};

/// The number of failed messages of one queue in one status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailedMessageCount {
    /// The queue.
    pub queue: QueueName,
    /// The status; never `resolved`.
    pub status: StatusKind,
    /// The number.
    pub messages: u64,
}

/// What waits in the database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Unpublished events, counted up to a limit.
    pub outbox_pending: u64,
    /// The age of the oldest unpublished event that is not parked.
    pub outbox_oldest: Duration,
    /// Parked events.
    pub outbox_parked: u64,
    /// Failed messages.
    pub failed_messages: Vec<FailedMessageCount>,
    /// Groups of dead letters.
    pub failed_message_groups: u64,
    /// How long the retry that has been due for longest is overdue.
    pub retries_overdue: Duration,
    /// The number of running processes with each role.
    pub processes: Vec<(&'static str, u64)>,
}

named_values! {
    /// The queues that the broker has for one queue of the service.
    GaugedQueueKind {
        /// The queue itself.
        Main = "main",
        /// Its dead letters.
        DeadLetter = "dead_letter",
        /// Its messages that cannot be decoded.
        Unreadable = "unreadable",
    }
}

/// The state of a queue of the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueState {
    /// The queue.
    pub queue: QueueName,
    /// Which of its queues.
    pub kind: GaugedQueueKind,
    /// Messages that are ready for delivery.
    pub ready: u32,
    /// Consumers.
    pub consumers: u32,
}

/// Measures what waits in the database, on a connection of its own. An answer takes a limited time.
#[async_trait]
pub trait BacklogReader: Send + Sync {
    /// Measures.
    ///
    /// # Errors
    /// The database does not answer in time.
    async fn backlog(&self) -> Result<Backlog, StoreError>;
}

/// Measures the queues of the broker, on a connection of its own. An answer takes a limited time.
#[async_trait]
pub trait QueueReader: Send + Sync {
    /// The queues that exist.
    ///
    /// # Errors
    /// The broker does not answer in time.
    async fn queues(&self) -> Result<Vec<QueueState>, BrokerError>;
}

/// What this process does with the messages of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueActivity {
    /// The queue.
    pub queue: QueueName,
    /// The deliveries that are not acknowledged, with those of its dead-letter queue.
    pub unacknowledged: usize,
    /// How long the partition that has been busy for longest has been busy.
    pub busy_for: Duration,
}

/// The text of the metrics.
pub trait Exposition: Send + Sync {
    /// The media type of the text.
    fn content_type(&self) -> &'static str;

    /// All metrics, with what the process does now.
    fn expose(&self, activity: &[QueueActivity]) -> String;
}

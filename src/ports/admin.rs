//! Administration of the servers: exchanges and queues, read model, and sending commands.

use async_trait::async_trait;
use serde::Serialize;

use crate::domain::PublishOutcome;

use super::{
    error::{BrokerError, StoreError},
    queue::UNREADABLE,
};

/// The result of the declaration of an exchange or queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeclareResult {
    /// It exists with the declared arguments.
    Matches(String),
    /// It exists with other arguments, and was not changed. The broker's text names both values.
    Mismatch(String, String),
    /// It exists, and this user has no permission to compare its arguments.
    NotPermitted(String),
}

/// The depth of a queue, and its consumers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueueDepth {
    /// The full name.
    pub name: String,
    /// Messages that are ready for delivery.
    pub ready: u32,
    /// Consumers.
    pub consumers: u32,
}

impl QueueDepth {
    /// Whether this is the queue for messages that cannot be decoded. Nothing consumes it.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        self.name.ends_with(UNREADABLE)
    }
}

/// Exchanges and queues.
#[async_trait]
pub trait Topology: Send + Sync {
    /// Declares missing exchanges and queues, and compares existing ones, which it never changes.
    ///
    /// # Errors
    /// The broker is unavailable, or this user has no permission to declare what is missing.
    async fn declare(&self) -> Result<Vec<DeclareResult>, BrokerError>;

    /// Reads the depth of every queue.
    ///
    /// # Errors
    /// The broker is unavailable, or a queue is missing.
    async fn queue_depths(&self) -> Result<Vec<QueueDepth>, BrokerError>;
}

/// A command to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundCommand {
    /// Its type, which is also its routing key.
    pub kind: String,
    /// Its message id.
    pub message_id: String,
    /// Its body.
    pub body: Vec<u8>,
}

/// Enqueues commands.
#[async_trait]
pub trait CommandSender: Send + Sync {
    /// Publishes commands and waits for the confirms. The outcomes are in the order of the commands.
    async fn send(&self, commands: &[OutboundCommand]) -> Vec<PublishOutcome>;
}

/// The progress or the result of a rebuild.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RebuildReport {
    /// Compared lines, including rows without a line.
    pub lines: u64,
    /// Rows that differed and were repaired.
    pub differed: u64,
}

/// The maintenance of the read model.
#[async_trait]
pub trait ReadModel: Send + Sync {
    /// Compares every row with its line and repairs the rows that differ, while commands are handled. `progress` receives
    /// intermediate reports.
    ///
    /// # Errors
    /// The database is unavailable. The repairs so far are committed.
    async fn rebuild(
        &self,
        progress: &(dyn Fn(RebuildReport) + Send + Sync),
    ) -> Result<RebuildReport, StoreError>;
}

//! What operators and upstream systems ask of the servers themselves.

use async_trait::async_trait;
use serde::Serialize;

use crate::domain::PublishOutcome;

use super::error::{BrokerError, StoreError};

/// What became of the declaration of an exchange or queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeclareResult {
    /// It exists, as it should.
    Matches(String),
    /// It exists with other properties; the broker's words name both values. It was left as it is.
    Mismatch(String, String),
    /// It exists, and this user may not say how.
    NotPermitted(String),
}

/// How many messages wait in a queue, and how many consumers it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueueDepth {
    /// The full name.
    pub name: String,
    /// Messages that wait to be delivered.
    pub ready: u32,
    /// Subscriptions.
    pub consumers: u32,
}

/// Exchanges and queues.
#[async_trait]
pub trait Topology: Send + Sync {
    /// Declares what is missing and compares what exists, which is never changed.
    ///
    /// # Errors
    /// The broker is away, or something is missing that this user may not declare.
    async fn declare(&self) -> Result<Vec<DeclareResult>, BrokerError>;

    /// Looks at every queue without touching it.
    ///
    /// # Errors
    /// The broker is away, or a queue is missing.
    async fn queue_depths(&self) -> Result<Vec<QueueDepth>, BrokerError>;
}

/// A command as an upstream system sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundCommand {
    /// Its type, which is its routing key as well.
    pub kind: String,
    /// Its id.
    pub message_id: String,
    /// Its body, sent as it is.
    pub body: Vec<u8>,
}

/// Enqueues commands.
#[async_trait]
pub trait CommandSender: Send + Sync {
    /// Publishes commands and waits until each is confirmed, or not; the answers are in the order of the commands.
    async fn send(&self, commands: &[OutboundCommand]) -> Vec<PublishOutcome>;
}

/// The database's schema beside the one this program was built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchemaVersion {
    /// The last migration in the database; none if there was never one.
    pub found: Option<i64>,
    /// The last migration this program knows.
    pub expected: i64,
}

/// The database's schema.
#[async_trait]
pub trait Schema: Send + Sync {
    /// Reads its version without changing anything.
    ///
    /// # Errors
    /// The database is away.
    async fn version(&self) -> Result<SchemaVersion, StoreError>;
}

/// What a look at the whole read model came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RebuildReport {
    /// Lines that exist, and rows that there were for no line.
    pub lines: u64,
    /// Rows that did not say what is true, and do now.
    pub differed: u64,
}

/// The read model, which can be made anew from the write side.
#[async_trait]
pub trait ReadModel: Send + Sync {
    /// Compares every row with the line it tells of, and puts right what differs, while work goes on. `progress` is
    /// told now and then how far it is.
    ///
    /// # Errors
    /// The database is away; what was put right until then stays so.
    async fn rebuild(
        &self,
        progress: &(dyn Fn(RebuildReport) + Send + Sync),
    ) -> Result<RebuildReport, StoreError>;
}

impl SchemaVersion {
    /// Whether this program can work on this database.
    #[must_use]
    pub fn fits(self) -> bool {
        self.found == Some(self.expected)
    }
}

impl std::fmt::Display for SchemaVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.found {
            Some(found) if found > self.expected => {
                write!(
                    f,
                    "the schema is at version {found}, this program knows {}: use a newer one",
                    self.expected
                )
            }
            Some(found) if found == self.expected => write!(f, "the schema is at version {found}"),
            Some(found) => {
                write!(f, "the schema is at version {found}, not {}: run `allocation migrate`", self.expected)
            }
            None => f.write_str("the database has no schema: run `allocation migrate`"),
        }
    }
}

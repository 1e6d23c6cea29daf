//! Dry runs: transactions that are never committed. They show what a failed message would do.

use std::sync::Arc;

use async_trait::async_trait;
use time::OffsetDateTime;

use crate::domain::FailedMessage;

use super::{error::StoreError, failed_messages::DueRetry, queue::Message, store::Store};

/// A failed message, and what a retry of it would publish.
#[derive(Clone, Debug, PartialEq)]
pub struct RetriableMessage {
    /// Its state.
    pub failed: FailedMessage,
    /// Its last error.
    pub error: String,
    /// The message id of the last command that has overtaken it.
    pub overtaken_by: Option<String>,
    /// The first retrying or waiting message with its ordering key, if that is earlier.
    pub behind: Option<i64>,
    /// The first dead or discarded message with its ordering key, if that is earlier: it would be overtaken.
    pub overtakes: Option<i64>,
    /// The copy that a retry publishes.
    pub copy: DueRetry,
}

/// Failed messages as a dry run sees them.
#[derive(Clone, Debug, PartialEq)]
pub struct RetriableMessages {
    /// When the dry run began, by the clock of the store.
    pub as_of: OffsetDateTime,
    /// The messages that exist; the one that failed first is first.
    pub messages: Vec<RetriableMessage>,
}

/// Begins dry runs.
#[async_trait]
pub trait DryRuns: Send + Sync {
    /// Begins a dry run.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if there is no connection.
    async fn begin(&self) -> Result<Box<dyn DryRun>, StoreError>;
}

/// A transaction that is never committed. It is rolled back when it is dropped.
#[async_trait]
pub trait DryRun: Send {
    /// A store whose transactions are parts of this dry run, one at a time. Their commits write everything, check all
    /// constraints, also deferred ones, and are visible to later parts only; no other session is notified of them. A part waits less
    /// for locks than other transactions do: the dry run may hold some that others need.
    fn store(&self) -> Arc<dyn Store>;

    /// Failed messages, by their ids. Nothing is locked.
    async fn failed_messages(&mut self, ids: &[i64]) -> Result<RetriableMessages, StoreError>;

    /// Undoes everything.
    async fn rollback(self: Box<Self>);
}

/// Knows what a consumer receives after a retry.
pub trait RetryDelivery: Send + Sync {
    /// The message as the consumer receives it.
    fn delivered(&self, copy: &DueRetry) -> Message;
}

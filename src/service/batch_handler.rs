//! The interface between the consumer and the three handlers of messages.

use async_trait::async_trait;

use crate::ports::{answered::MissingAnswers, error::StoreError, queue::QueueName};

use super::{availability::ServerUnavailable, received::ReceivedMessage};

/// Handles messages: commands, dead letters or notifications.
#[async_trait]
pub trait BatchHandler: Send + Sync {
    /// Handles messages that came from `queue`, in their order. Afterwards each has its outcome.
    ///
    /// # Errors
    /// [`HandleError`]. The messages that have an outcome nevertheless, also if the future is dropped, are finished; the
    /// others must be handled again.
    async fn handle(&self, queue: QueueName, batch: &mut [&mut ReceivedMessage]) -> Result<(), HandleError>;

    /// Whether the servers that messages are handled with are available.
    ///
    /// # Errors
    /// [`ServerUnavailable`] if one is not.
    async fn probe(&self) -> Result<(), ServerUnavailable>;

    /// Receives messages that return to their queue without an outcome, although this process has not crashed.
    async fn release(&self, _queue: QueueName, _batch: &[&ReceivedMessage]) {}
}

/// Why messages have no outcome. Whether their changes are committed is unknown; inbox and failed messages have the answer
/// when they are handled again.
#[derive(Debug, thiserror::Error)]
pub enum HandleError {
    /// A server is unavailable.
    #[error(transparent)]
    Unavailable(#[from] ServerUnavailable),
    /// A defect of this program: something was not answered for each message.
    #[error("a defect of this program: {0}")]
    Missing(#[from] MissingAnswers),
}

impl From<StoreError> for HandleError {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(error.into())
    }
}

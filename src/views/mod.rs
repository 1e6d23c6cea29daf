//! The read side: one question, one query, one struct. Nothing here writes.

mod availability;
mod failed_messages;
mod orders;
mod outbox;
mod progress;

use std::time::Duration;

use sqlx::{PgConnection, PgPool, Postgres, pool::PoolConnection};

pub use availability::{Availability, AvailableBatch};
pub use failed_messages::{
    ActionRow, AttemptRow, FailedMessageDetail, FailedMessageSummary, FailureCounts, FailureGroup,
};
pub use orders::{Allocation, Order, OrderLine};
pub use outbox::{OutboxDepth, UnpublishedEvent};
pub use progress::{RecordedTotals, SendProgress};

/// Answers questions from a database.
#[derive(Clone)]
pub struct Views {
    pool: PgPool,
    /// Stands before the names of queues.
    namespace: String,
    timeout: Duration,
}

/// A connection for one question. Whoever gives up waiting closes it: given back while its server is silent, it would be
/// missing from the pool for ever.
struct Lent(Option<PoolConnection<Postgres>>);

impl Lent {
    fn connection(&mut self) -> &mut PgConnection {
        self.0.as_mut().expect("it is there until it is given back")
    }

    fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}

impl Views {
    /// Views over a pool, of one namespace. The questions that others ask by way of the network wait for `timeout`.
    #[must_use]
    pub fn new(pool: PgPool, namespace: String, timeout: Duration) -> Self {
        Self { pool, namespace, timeout }
    }

    async fn lend(&self) -> Result<Lent, sqlx::Error> {
        Ok(Lent(Some(self.pool.acquire().await?)))
    }

    async fn retry_until_available<T>(
        &self,
        answer: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        tokio::time::timeout(self.timeout, answer).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }
}

//! The handle of the read side.

use std::time::Duration;

use sqlx::PgConnection;

use crate::{
    pg::{Pool, PooledSession},
    ports::error::StoreError,
};

/// The queries of the read side, on one database and one namespace.
#[derive(Clone)]
pub struct Views {
    pool: Pool,
    /// The prefix of the queue names in results.
    pub(super) namespace: String,
    timeout: Duration,
}

impl Views {
    /// Views on a pool. A query that takes longer than `timeout` fails.
    #[must_use]
    pub fn new(pool: impl Into<Pool>, namespace: String, timeout: Duration) -> Self {
        Self { pool: pool.into(), namespace, timeout }
    }

    /// Runs a query on a connection of its own, within the timeout.
    pub(super) async fn query<T>(
        &self,
        query: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        let mut session = PooledSession::open(&self.pool, self.timeout).await?;
        let answer = session.run(query).await?;
        session.finish().await?;
        Ok(answer)
    }
}

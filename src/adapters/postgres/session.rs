//! One connection of the pool for one purpose.

use std::time::Duration;

use futures_util::{TryStreamExt as _, stream::BoxStream};
use sqlx::{Executor as _, PgConnection, PgPool, Postgres, pool::PoolConnection};

use crate::ports::error::StoreError;

use super::with_timeout;

/// A connection that is either given back in order, or closed: whatever was cut off half-way on it, an open
/// transaction above all, nobody will find in the pool.
pub(super) struct PooledSession {
    connection: Option<PoolConnection<Postgres>>,
    timeout: Duration,
}

impl PooledSession {
    /// Takes a connection.
    pub(super) async fn open(pool: &PgPool, timeout: Duration) -> Result<Self, StoreError> {
        let connection = pool.acquire().await.map_err(super::store_error)?;
        Ok(Self { connection: Some(connection), timeout })
    }

    /// Takes a connection and begins a transaction on it.
    pub(super) async fn begin(pool: &PgPool, timeout: Duration) -> Result<Self, StoreError> {
        let mut session = Self::open(pool, timeout).await?;
        session.statement("begin").await?;
        Ok(session)
    }

    /// Runs one plain statement.
    pub(super) async fn statement(&mut self, sql: &'static str) -> Result<(), StoreError> {
        let connection = self.connection.as_mut().expect("a session has its connection until it ends");
        with_timeout(self.timeout, connection.execute(sql)).await.map(drop)
    }

    /// Runs statements, as long as the connection is not silent for too long.
    pub(super) async fn run<T>(
        &mut self,
        statements: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        let connection = self.connection.as_mut().expect("a session has its connection until it ends");
        with_timeout(self.timeout, statements(connection)).await
    }

    /// Reads rows, as long as the connection is not silent for too long between two of them.
    pub(super) async fn rows<'a, T, U>(
        &'a mut self,
        query: impl FnOnce(&'a mut PgConnection) -> BoxStream<'a, Result<T, sqlx::Error>>,
        mut map: impl FnMut(T) -> Result<U, sqlx::Error>,
    ) -> Result<Vec<U>, StoreError> {
        let timeout = self.timeout;
        let connection = self.connection.as_mut().expect("a session has its connection until it ends");
        let mut rows = query(connection);
        let mut mapped = Vec::new();
        while let Some(row) = with_timeout(timeout, rows.try_next()).await? {
            mapped.push(map(row).map_err(super::store_error)?);
        }
        Ok(mapped)
    }

    /// Keeps what was done and gives the connection back. After silence it is unknown whether it was kept.
    pub(super) async fn commit(mut self) -> Result<(), StoreError> {
        match self.statement("commit").await {
            Ok(()) => {
                self.release();
                Ok(())
            }
            Err(StoreError::Timeout(cause)) => Err(StoreError::CommitUnknown(cause)),
            Err(error) => Err(error),
        }
    }

    /// Undoes what was done and gives the connection back.
    pub(super) async fn rollback(mut self) {
        if self.statement("rollback").await.is_ok() {
            self.release();
        }
    }

    /// Gives the connection back; only where no transaction is open on it.
    pub(super) fn release(mut self) {
        self.connection = None;
    }
}

impl Drop for PooledSession {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            drop(connection.detach());
        }
    }
}

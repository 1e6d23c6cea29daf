//! Connections of the pool, with a time limit for every statement.

use std::time::Duration;

use futures_util::{TryStreamExt as _, stream::BoxStream};
use sqlx::{ConnectOptions as _, Executor as _, PgConnection, PgPool, Postgres, pool::PoolConnection};

use crate::ports::error::StoreError;

use super::{error::store_error, pool::Pool, sql_error::POOLER_HINT, timeout::with_timeout};

/// A connection of the pool. It is returned to the pool by [`Self::commit`], [`Self::rollback`] or [`Self::finish`], and closed
/// otherwise: an interrupted statement or an open transaction never reaches the pool.
pub(crate) struct PooledSession {
    connection: Option<PoolConnection<Postgres>>,
    timeout: Duration,
    /// Whether its statements are one transaction, although its user needs none.
    is_shared: bool,
}

impl PooledSession {
    /// Acquires a connection for statements that need no transaction.
    pub(crate) async fn open(pool: &Pool, timeout: Duration) -> Result<Self, StoreError> {
        if pool.is_shared() {
            let mut session = Self::begin(pool, timeout).await?;
            session.is_shared = true;
            return Ok(session);
        }
        Self::acquire(pool, timeout).await
    }

    /// Acquires a connection and begins a transaction.
    pub(crate) async fn begin(pool: &Pool, timeout: Duration) -> Result<Self, StoreError> {
        let mut session = Self::acquire(pool, timeout).await?;
        session.statement(pool.begin()).await?;
        Ok(session)
    }

    /// The same, with further settings of the transaction.
    pub(crate) async fn begin_with(
        pool: &Pool,
        timeout: Duration,
        settings: &'static str,
    ) -> Result<Self, StoreError> {
        let mut session = Self::acquire(pool, timeout).await?;
        session.statement(&format!("{}; {settings}", pool.begin())).await?;
        Ok(session)
    }

    async fn acquire(pool: &Pool, timeout: Duration) -> Result<Self, StoreError> {
        let connection = match pool.connections().acquire().await {
            Err(sqlx::Error::PoolTimedOut) => return Err(no_connection(pool.connections(), timeout).await),
            acquired => acquired.map_err(store_error)?,
        };
        let mut session = Self { connection: Some(connection), timeout, is_shared: false };
        if session.run(async |connection| pool.has_settings(connection).await).await? {
            return Ok(session);
        }
        let text = format!("the server dropped the settings of the session: {POOLER_HINT}");
        Err(StoreError::Unavailable(text.into()))
    }

    /// Executes statements without parameters.
    pub(crate) async fn statement(&mut self, sql: &str) -> Result<(), StoreError> {
        let connection = self.connection.as_mut().expect("a session has a connection until it ends");
        with_timeout(self.timeout, connection.execute(sql)).await.map(drop)
    }

    /// Executes statements, all within the timeout.
    pub(crate) async fn run<T>(
        &mut self,
        statements: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        let connection = self.connection.as_mut().expect("a session has a connection until it ends");
        with_timeout(self.timeout, statements(connection)).await
    }

    /// Reads rows, each within the timeout.
    pub(crate) async fn rows<'a, T, U>(
        &'a mut self,
        query: impl FnOnce(&'a mut PgConnection) -> BoxStream<'a, Result<T, sqlx::Error>>,
        mut map: impl FnMut(T) -> Result<U, sqlx::Error>,
    ) -> Result<Vec<U>, StoreError> {
        let timeout = self.timeout;
        let connection = self.connection.as_mut().expect("a session has a connection until it ends");
        let mut rows = query(connection);
        let mut mapped = Vec::new();
        while let Some(row) = with_timeout(timeout, rows.try_next()).await? {
            mapped.push(map(row).map_err(store_error)?);
        }
        Ok(mapped)
    }

    /// Commits the transaction. After a timeout its outcome is unknown.
    pub(crate) async fn commit(mut self) -> Result<(), StoreError> {
        match self.statement("commit").await {
            Ok(()) => {
                self.connection = None;
                Ok(())
            }
            Err(StoreError::Timeout(cause)) => Err(StoreError::CommitUnknown(cause)),
            Err(error) => Err(error),
        }
    }

    /// Rolls the transaction back.
    pub(crate) async fn rollback(mut self) {
        if self.statement("rollback").await.is_ok() {
            self.connection = None;
        }
    }

    /// Ends what [`Self::open`] began: what was written is then permanent. After a timeout that is unknown.
    pub(crate) async fn finish(mut self) -> Result<(), StoreError> {
        if self.is_shared {
            self.statement("commit").await?;
        }
        self.connection = None;
        Ok(())
    }
}

/// The pool does not say why it could not connect in time: the server is asked once more.
async fn no_connection(pool: &PgPool, timeout: Duration) -> StoreError {
    match with_timeout(timeout, pool.connect_options().connect()).await {
        Ok(_) => {
            let limit = pool.options().get_max_connections();
            let text =
                format!("all connections of this process are in use (database.max_connections = {limit})");
            StoreError::Unavailable(text.into())
        }
        Err(StoreError::Timeout(cause)) => StoreError::Unavailable(cause),
        Err(error) => error,
    }
}

impl Drop for PooledSession {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            drop(connection.detach());
        }
    }
}

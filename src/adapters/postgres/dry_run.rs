//! Dry runs: one transaction that is rolled back, with the transactions of a store as its savepoints.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    pg::{PgConfig, Pool, PooledSession},
    ports::{
        dry_run::{DryRun, DryRuns, RetriableMessages},
        error::StoreError,
        queue::QueueName,
        store::{LockMode, Store, Tx},
    },
};

use super::{
    failed_messages,
    savepoint::SharedSession,
    starts,
    transaction::{PgTx, TxEnd},
};

/// A server notices within this time that the process of a dry run was killed, and releases its locks.
const SETTINGS: &str = "set local client_connection_check_interval = '100ms'";

/// Begins dry runs on the connections of a pool.
pub struct PgDryRuns {
    pool: Pool,
    timeout: Duration,
}

impl PgDryRuns {
    /// Dry runs in the database of a pool.
    #[must_use]
    pub fn new(pool: impl Into<Pool>, config: &PgConfig) -> Self {
        Self { pool: pool.into(), timeout: config.timeout }
    }
}

#[async_trait]
impl DryRuns for PgDryRuns {
    async fn begin(&self) -> Result<Box<dyn DryRun>, StoreError> {
        let session = PooledSession::begin_with(&self.pool, self.timeout, SETTINGS).await?;
        Ok(Box::new(PgDryRun(SharedSession::new(session))))
    }
}

struct PgDryRun(SharedSession);

#[async_trait]
impl DryRun for PgDryRun {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.0.clone())
    }

    async fn failed_messages(&mut self, ids: &[i64]) -> Result<RetriableMessages, StoreError> {
        self.0
            .run(async |session| {
                session.run(async |connection| failed_messages::retriable(connection, ids).await).await
            })
            .await
    }

    async fn rollback(self: Box<Self>) {
        if let Ok((_, session)) = self.0.take().await {
            session.rollback().await;
        }
    }
}

/// Begins the next part, with the locks that it waits for.
fn begin(locks: LockMode) -> &'static str {
    match locks {
        // Less than the `deadlock_timeout`: a deadlock ends without an error of the other transaction.
        LockMode::Wait => "savepoint part; set local lock_timeout = '250ms'",
        LockMode::Skip => "savepoint part; set local lock_timeout = '50ms'",
    }
}

#[async_trait]
impl Store for SharedSession {
    async fn begin_with(&self, queue: QueueName, locks: LockMode) -> Result<Box<dyn Tx>, StoreError> {
        let (place, mut session) = self.take().await?;
        session.statement(begin(locks)).await?;
        Ok(Box::new(PgTx::new(session, queue, locks, TxEnd::Part(place))))
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.run(async |session| session.statement("select 1").await).await
    }

    async fn unfinished_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<Vec<u32>, StoreError> {
        let queue = queue.as_str();
        self.run(async |session| {
            session.run(async |connection| starts::unfinished_starts(connection, queue, ids).await).await
        })
        .await
    }

    async fn record_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<(), StoreError> {
        let queue = queue.as_str();
        self.run(async |session| {
            session.run(async |connection| starts::record_starts(connection, queue, ids).await).await
        })
        .await
    }

    async fn revert_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<(), StoreError> {
        let queue = queue.as_str();
        self.run(async |session| {
            session.run(async |connection| starts::revert_starts(connection, queue, ids).await).await
        })
        .await
    }
}

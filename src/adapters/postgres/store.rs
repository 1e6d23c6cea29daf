//! The store over a pool.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    pg::{PgConfig, Pool, PooledSession},
    ports::{
        error::StoreError,
        queue::QueueName,
        store::{LockMode, Store, Tx},
    },
};

use super::{
    commit_signal::CommitSignal,
    inbox, starts,
    transaction::{PgTx, TxEnd},
};

/// Keeps everything in one database.
#[derive(Clone)]
pub struct PgStore {
    pool: Pool,
    timeout: Duration,
    commit_signal: Arc<CommitSignal>,
}

impl PgStore {
    /// A store on a pool. `commit_signal` is notified of commits with work for the relay.
    #[must_use]
    pub fn new(pool: impl Into<Pool>, access: &PgConfig, commit_signal: Arc<CommitSignal>) -> Self {
        Self { pool: pool.into(), timeout: access.timeout, commit_signal }
    }
}

#[async_trait]
impl Store for PgStore {
    async fn begin_with(&self, queue: QueueName, locks: LockMode) -> Result<Box<dyn Tx>, StoreError> {
        let session = PooledSession::begin_with(&self.pool, self.timeout, settings(queue, locks)).await?;
        let commit_signal = self.commit_signal.clone();
        Ok(Box::new(PgTx::new(session, queue, locks, TxEnd::Commit(commit_signal))))
    }

    async fn probe(&self) -> Result<(), StoreError> {
        let mut session = PooledSession::begin(&self.pool, self.timeout).await?;
        session.run(async |connection| inbox::write_and_remove(connection).await).await?;
        session.commit().await
    }

    async fn unfinished_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<Vec<u32>, StoreError> {
        let mut session = PooledSession::open(&self.pool, self.timeout).await?;
        let starts = session
            .run(async |connection| starts::unfinished_starts(connection, queue.as_str(), ids).await)
            .await?;
        session.finish().await?;
        Ok(starts)
    }

    async fn record_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<(), StoreError> {
        let mut session = PooledSession::open(&self.pool, self.timeout).await?;
        session.run(async |connection| starts::record_starts(connection, queue.as_str(), ids).await).await?;
        session.finish().await?;
        Ok(())
    }

    async fn revert_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<(), StoreError> {
        let mut session = PooledSession::open(&self.pool, self.timeout).await?;
        let taken_back =
            session.run(async |connection| starts::revert_starts(connection, queue.as_str(), ids).await);
        taken_back.await?;
        session.finish().await?;
        Ok(())
    }
}

/// The settings of a transaction, in one request with its begin.
fn settings(queue: QueueName, locks: LockMode) -> &'static str {
    match (queue, locks) {
        // A mail server may take longer than other transactions may rest.
        (QueueName::Notifications, _) => "set local idle_in_transaction_session_timeout = '5min'",
        // Longer than `deadlock_timeout`, so that the server ends a deadlock before.
        (QueueName::Orders | QueueName::Stock, LockMode::Wait) => "set local lock_timeout = '1500ms'",
        (QueueName::Orders | QueueName::Stock, LockMode::Skip) => "set local lock_timeout = '50ms'",
    }
}

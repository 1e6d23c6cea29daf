//! The store over a pool, and one transaction on one of its connections.

use std::{sync::Arc, time::Duration};

use crate::{
    domain::{Batch, BatchRef, BatchSearch, FailedMessageKey, MessageKey, Product, Sku},
    pg::{PgConfig, Pool, PooledSession},
    ports::{
        error::StoreError,
        queue::{QueueName, RetryMark},
        store::{
            ChangeSet, InboxCheck, LoadedProducts, LockMode, OrderCheck, OrderedMessage, RetryCheck, Store,
            Tx, WorkingSet,
        },
    },
};
use async_trait::async_trait;

use super::{commit_signal::CommitSignal, failed_messages, inbox, outbox, products, read_model, starts};

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
        Ok(Box::new(PgTx { session, queue: queue.as_str(), locks, commit_signal }))
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

/// Rows of the read model or the outbox that one statement writes: as [`products::write`] does with lines.
const ROWS_AT_ONCE: usize = 5_000;

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

struct PgTx {
    session: PooledSession,
    queue: &'static str,
    locks: LockMode,
    commit_signal: Arc<CommitSignal>,
}

impl PgTx {
    async fn write(&mut self, work: &ChangeSet) -> Result<(), StoreError> {
        let queue = self.queue;
        let session = &mut self.session;
        let settled = session.run(async |connection| {
            inbox::forget(connection, queue, &work.unhandled).await?;
            failed_messages::overtake(connection, &work.overtakings).await?;
            failed_messages::resolve(connection, queue, &work.handled).await?;
            failed_messages::record(connection, queue, &work.failures).await?;
            failed_messages::release(connection, &work.released).await?;
            starts::clear_starts(connection, queue, &work.ended).await
        });
        settled.await?;
        if let products::VersionCheck::Conflict = products::write(session, &work.products).await? {
            return Err(StoreError::Conflict("a product changed under its lock".into()));
        }
        for rows in work.view.chunks(ROWS_AT_ONCE) {
            session.run(async |connection| read_model::write(connection, rows).await).await?;
        }
        for events in work.events.chunks(ROWS_AT_ONCE) {
            session.run(async |connection| outbox::append(connection, events).await).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Tx for PgTx {
    async fn check_inbox(&mut self, keys: &[MessageKey]) -> Result<Vec<InboxCheck>, StoreError> {
        let queue = self.queue;
        self.session
            .run(async |connection| inbox::check_inbox(connection, queue, keys).await)
            .await?
            .ok_or_else(inbox::removed_meanwhile)
    }

    async fn check_retries(&mut self, marks: &[RetryMark]) -> Result<Vec<RetryCheck>, StoreError> {
        let queue = self.queue;
        // A mail is sent in this transaction, and cannot be recalled.
        let lock = queue != QueueName::Notifications.as_str();
        let check =
            async |connection: &mut _| failed_messages::check_retries(connection, queue, marks, lock).await;
        self.session.run(check).await
    }

    async fn check_order(&mut self, messages: &[OrderedMessage]) -> Result<Vec<OrderCheck>, StoreError> {
        let queue = self.queue;
        let check = self
            .session
            .run(async |connection| failed_messages::check_order(connection, queue, messages).await);
        check.await?.ok_or_else(|| StoreError::Conflict("failed messages of the same lines change".into()))
    }

    async fn failed_attempts(&mut self, keys: &[FailedMessageKey]) -> Result<Vec<u32>, StoreError> {
        let queue = self.queue;
        self.session
            .run(async |connection| failed_messages::count_attempts(connection, queue, keys).await)
            .await
    }

    async fn load_products(&mut self, working_set: &WorkingSet) -> Result<LoadedProducts, StoreError> {
        let locks = self.locks;
        self.session.run(async |connection| products::load(connection, working_set, locks).await).await
    }

    async fn search_batches(&mut self, sku: &Sku, search: &BatchSearch) -> Result<Vec<Batch>, StoreError> {
        self.session.run(async |connection| products::search(connection, sku, search).await).await
    }

    async fn load_waiting_lines(&mut self, product: &mut Product) -> Result<(), StoreError> {
        products::load_waiting_lines(&mut self.session, product).await
    }

    async fn load_newest_lines(
        &mut self,
        product: &mut Product,
        batch: &BatchRef,
        units: u32,
    ) -> Result<(), StoreError> {
        products::load_newest_lines(&mut self.session, product, batch, units).await
    }

    async fn commit(mut self: Box<Self>, work: ChangeSet) -> Result<(), StoreError> {
        if let Err(error) = self.write(&work).await {
            self.session.rollback().await;
            return Err(error);
        }
        self.session.commit().await?;
        if !(work.events.is_empty() && work.failures.is_empty() && work.released.is_empty()) {
            self.commit_signal.notify();
        }
        Ok(())
    }

    async fn rollback(self: Box<Self>) {
        self.session.rollback().await;
    }
}

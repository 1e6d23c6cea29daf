//! One transaction on one connection.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    domain::{Batch, BatchRef, BatchSearch, FailedMessageKey, MessageKey, Product, Sku},
    pg::PooledSession,
    ports::{
        error::StoreError,
        queue::{QueueName, RetryMark},
        store::{
            ChangeSet, InboxCheck, LoadedProducts, LockMode, OrderCheck, OrderedMessage, RetryCheck, Tx,
            WorkingSet,
        },
    },
};

use super::{
    commit_signal::CommitSignal, failed_messages, inbox, outbox, products, read_model,
    savepoint::SessionPlace, starts,
};

/// Rows of the read model or the outbox that one statement writes: as [`products::write`] does with lines.
const ROWS_AT_ONCE: usize = 5_000;

/// How a transaction ends.
pub(super) enum TxEnd {
    /// With a commit, and a notification of it.
    Commit(Arc<CommitSignal>),
    /// As a part of a dry run, which gets its session back.
    Part(SessionPlace),
}

pub(super) struct PgTx {
    session: PooledSession,
    queue: &'static str,
    locks: LockMode,
    end: TxEnd,
}

impl PgTx {
    /// A transaction that has begun.
    pub(super) fn new(session: PooledSession, queue: QueueName, locks: LockMode, end: TxEnd) -> Self {
        Self { session, queue: queue.as_str(), locks, end }
    }

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
        let written = self.write(&work).await;
        let commit_signal = match self.end {
            TxEnd::Commit(commit_signal) => commit_signal,
            TxEnd::Part(place) => return place.end(self.session, written).await,
        };
        if let Err(error) = written {
            self.session.rollback().await;
            return Err(error);
        }
        self.session.commit().await?;
        if !(work.events.is_empty() && work.failures.is_empty() && work.released.is_empty()) {
            commit_signal.notify();
        }
        Ok(())
    }

    async fn rollback(self: Box<Self>) {
        match self.end {
            TxEnd::Commit(_) => self.session.rollback().await,
            TxEnd::Part(place) => {
                let undone = StoreError::Failed("rolled back".into());
                let _ = place.end(self.session, Err(undone)).await;
            }
        }
    }
}

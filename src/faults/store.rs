//! Faults of the store and of its transactions.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    domain::{Batch, BatchRef, BatchSearch, FailedMessageKey, MessageKey, Product, Sku},
    ports::{
        error::StoreError,
        queue::{QueueName, RetryMark},
        store::{
            ChangeSet, InboxCheck, LoadedProducts, LockMode, OrderCheck, OrderedMessage, RetryCheck, Store,
            Tx, WorkingSet,
        },
    },
};

use super::{
    plan,
    points::{CrashPoint, SeededBug},
};

pub(super) struct FaultyStore {
    inner: Arc<dyn Store>,
}

impl FaultyStore {
    pub(super) fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner }
    }
}

#[async_trait]
impl Store for FaultyStore {
    async fn begin_with(&self, queue: QueueName, locks: LockMode) -> Result<Box<dyn Tx>, StoreError> {
        let inner = self.inner.begin_with(queue, locks).await?;
        plan::pass(CrashPoint::WorkerBegun);
        Ok(Box::new(FaultyTx { inner, store: self.inner.clone(), queue }))
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.inner.probe().await
    }

    async fn unfinished_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<Vec<u32>, StoreError> {
        self.inner.unfinished_starts(queue, ids).await
    }

    async fn record_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<(), StoreError> {
        self.inner.record_starts(queue, ids).await
    }

    async fn revert_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<(), StoreError> {
        self.inner.revert_starts(queue, ids).await
    }
}

struct FaultyTx {
    inner: Box<dyn Tx>,
    store: Arc<dyn Store>,
    queue: QueueName,
}

async fn check_inbox_apart(
    store: Arc<dyn Store>,
    queue: QueueName,
    keys: &[MessageKey],
) -> Result<Vec<InboxCheck>, StoreError> {
    let mut tx = store.begin(queue).await?;
    let checks = tx.check_inbox(keys).await?;
    tx.commit(ChangeSet::default()).await?;
    Ok(checks)
}

#[async_trait]
impl Tx for FaultyTx {
    async fn check_inbox(&mut self, keys: &[MessageKey]) -> Result<Vec<InboxCheck>, StoreError> {
        let checks = if plan::has_bug(SeededBug::InboxApart) {
            check_inbox_apart(self.store.clone(), self.queue, keys).await?
        } else {
            self.inner.check_inbox(keys).await?
        };
        plan::pass(CrashPoint::WorkerInboxWritten);
        if plan::has_bug(SeededBug::IgnoreInbox) {
            return Ok(vec![InboxCheck::New; checks.len()]);
        }
        Ok(checks)
    }

    async fn check_retries(&mut self, marks: &[RetryMark]) -> Result<Vec<RetryCheck>, StoreError> {
        self.inner.check_retries(marks).await
    }

    async fn check_order(&mut self, messages: &[OrderedMessage]) -> Result<Vec<OrderCheck>, StoreError> {
        self.inner.check_order(messages).await
    }

    async fn failed_attempts(&mut self, keys: &[FailedMessageKey]) -> Result<Vec<u32>, StoreError> {
        self.inner.failed_attempts(keys).await
    }

    async fn load_products(&mut self, working_set: &WorkingSet) -> Result<LoadedProducts, StoreError> {
        self.inner.load_products(working_set).await
    }

    async fn search_batches(&mut self, sku: &Sku, search: &BatchSearch) -> Result<Vec<Batch>, StoreError> {
        self.inner.search_batches(sku, search).await
    }

    async fn load_waiting_lines(&mut self, product: &mut Product) -> Result<(), StoreError> {
        self.inner.load_waiting_lines(product).await
    }

    async fn load_newest_lines(
        &mut self,
        product: &mut Product,
        batch: &BatchRef,
        units: u32,
    ) -> Result<(), StoreError> {
        self.inner.load_newest_lines(product, batch, units).await
    }

    async fn commit(self: Box<Self>, work: ChangeSet) -> Result<(), StoreError> {
        let has_failures = !work.failures.is_empty();
        self.inner.commit(work).await?;
        plan::pass(CrashPoint::WorkerAfterCommit);
        if has_failures {
            plan::pass(CrashPoint::FailureAfterCommit);
        }
        Ok(())
    }

    async fn rollback(self: Box<Self>) {
        self.inner.rollback().await;
    }
}

//! The faults of a store and its transactions.

use std::sync::{Arc, atomic::Ordering};

use allocation::{
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
use async_trait::async_trait;

use super::{
    CRASHING_SKU,
    faulty::{Fault, FaultyPort},
};

#[async_trait]
impl<S: Store> Store for FaultyPort<S> {
    async fn begin_with(&self, queue: QueueName, locks: LockMode) -> Result<Box<dyn Tx>, StoreError> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let inner = self.inner.begin_with(queue, locks).await?;
        Ok(Box::new(FaultyPort {
            inner,
            fault: self.fault,
            begun: self.begun.clone(),
            failed: self.failed.clone(),
        }))
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

#[async_trait]
impl Tx for FaultyPort<Box<dyn Tx>> {
    async fn check_inbox(&mut self, keys: &[MessageKey]) -> Result<Vec<InboxCheck>, StoreError> {
        self.inner.check_inbox(keys).await
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
        if working_set.skus.iter().any(|sku| sku.as_str() == CRASHING_SKU) {
            self.die_if(Fault::DiesLoading);
            assert!(self.fault != Fault::PartitionPanics, "the partition panics");
            let error = match self.fault {
                Fault::FailsTwice => Some(StoreError::Failed("the statement failed".into())),
                Fault::UnavailableTwice => Some(StoreError::Unavailable("connection lost".into())),
                _ => None,
            };
            if let Some(error) = error.filter(|_| self.failed.fetch_add(1, Ordering::SeqCst) < 2) {
                return Err(error);
            }
        }
        self.inner.load_products(working_set).await
    }

    async fn search_batches(&mut self, sku: &Sku, search: &BatchSearch) -> Result<Vec<Batch>, StoreError> {
        self.inner.search_batches(sku, search).await
    }

    async fn load_waiting_lines(&mut self, product: &mut Product) -> Result<(), StoreError> {
        if product.sku().as_str() == CRASHING_SKU {
            assert!(self.fault != Fault::Panics, "the handler panics");
            if self.fault == Fault::Hangs {
                std::future::pending::<()>().await;
            }
        }
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
        self.die_if(Fault::DiesBeforeCommit);
        self.inner.commit(work).await
    }

    async fn rollback(self: Box<Self>) {
        self.inner.rollback().await;
    }
}

//! The leader session.

use allocation::{
    domain::OutboxRow,
    ports::{
        error::StoreError,
        failed_messages::DueRetry,
        outbox::{EventFeed, LeaderSession, PendingWork, Purge, Retention, RetryFeed, Upkeep},
    },
};
use async_trait::async_trait;

use super::{Fault, FaultyPort};

#[async_trait]
impl LeaderSession for FaultyPort<Box<dyn LeaderSession>> {
    async fn release(self: Box<Self>) {
        self.inner.release().await;
    }
}

#[async_trait]
impl EventFeed for FaultyPort<Box<dyn LeaderSession>> {
    async fn pending(&mut self) -> Result<PendingWork, StoreError> {
        self.inner.pending().await
    }

    async fn unpublished(&mut self, at_most: u32, except: &[String]) -> Result<Vec<OutboxRow>, StoreError> {
        self.inner.unpublished(at_most, except).await
    }

    async fn remove(&mut self, ids: &[i64], unroutable: &[i64]) -> Result<(), StoreError> {
        self.inner.remove(ids, unroutable).await
    }

    async fn record_nacked(&mut self, names: &[String]) -> Result<(), StoreError> {
        self.inner.record_nacked(names).await
    }

    async fn park(&mut self, id: i64, reason: &str) -> Result<(), StoreError> {
        self.inner.park(id, reason).await
    }
}

#[async_trait]
impl RetryFeed for FaultyPort<Box<dyn LeaderSession>> {
    async fn due(&mut self, at_most: u32, at_most_bytes: usize) -> Result<Vec<DueRetry>, StoreError> {
        self.inner.due(at_most, at_most_bytes).await
    }

    async fn published(&mut self, retries: &[&DueRetry]) -> Result<(), StoreError> {
        self.die_if(Fault::DiesBeforeMarkingRetries);
        self.inner.published(retries).await
    }

    async fn defer(&mut self, retries: &[&DueRetry], reason: &str) -> Result<(), StoreError> {
        self.inner.defer(retries, reason).await
    }

    async fn reject(&mut self, retry: &DueRetry, reason: &str) -> Result<(), StoreError> {
        self.inner.reject(retry, reason).await
    }
}

#[async_trait]
impl Upkeep for FaultyPort<Box<dyn LeaderSession>> {
    async fn purge(&mut self, retention: Retention) -> Result<Purge, StoreError> {
        self.inner.purge(retention).await
    }

    async fn add_up_failed_messages(&mut self) -> Result<(), StoreError> {
        self.inner.add_up_failed_messages().await
    }
}

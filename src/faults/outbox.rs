//! Faults of the outbox and of its leader session.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    domain::OutboxRow,
    ports::{
        error::StoreError,
        failed_messages::DueRetry,
        outbox::{EventFeed, LeaderSession, Outbox, PendingWork, Purge, Retention, RetryFeed, Upkeep},
    },
};

use super::{
    plan,
    points::{CrashPoint, SeededBug},
};

pub(super) struct FaultyOutbox(pub(super) Arc<dyn Outbox>);

#[async_trait]
impl Outbox for FaultyOutbox {
    async fn try_lead(&self) -> Result<Option<Box<dyn LeaderSession>>, StoreError> {
        let session = self.0.try_lead().await?;
        Ok(session.map(|inner| Box::new(FaultyLeaderSession(inner)) as Box<dyn LeaderSession>))
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.0.probe().await
    }

    async fn wait_for_wakeup(&self) {
        self.0.wait_for_wakeup().await;
    }
}

struct FaultyLeaderSession(Box<dyn LeaderSession>);

#[async_trait]
impl LeaderSession for FaultyLeaderSession {
    async fn release(self: Box<Self>) {
        self.0.release().await;
    }
}

#[async_trait]
impl EventFeed for FaultyLeaderSession {
    async fn pending(&mut self) -> Result<PendingWork, StoreError> {
        self.0.pending().await
    }

    async fn unpublished(&mut self, at_most: u32, except: &[String]) -> Result<Vec<OutboxRow>, StoreError> {
        self.0.unpublished(at_most, except).await
    }

    async fn remove(&mut self, ids: &[i64], unroutable: &[i64]) -> Result<(), StoreError> {
        if !plan::has_bug(SeededBug::ForgetToRemove) {
            self.0.remove(ids, unroutable).await?;
        }
        plan::pass(CrashPoint::RelayRemoved);
        Ok(())
    }

    async fn record_nacked(&mut self, names: &[String]) -> Result<(), StoreError> {
        self.0.record_nacked(names).await
    }

    async fn park(&mut self, id: i64, reason: &str) -> Result<(), StoreError> {
        self.0.park(id, reason).await
    }
}

#[async_trait]
impl RetryFeed for FaultyLeaderSession {
    async fn due(&mut self, at_most: u32, at_most_bytes: usize) -> Result<Vec<DueRetry>, StoreError> {
        self.0.due(at_most, at_most_bytes).await
    }

    async fn published(&mut self, retries: &[&DueRetry]) -> Result<(), StoreError> {
        self.0.published(retries).await?;
        if !retries.is_empty() {
            plan::pass(CrashPoint::RetryMarked);
        }
        Ok(())
    }

    async fn defer(&mut self, retries: &[&DueRetry], reason: &str) -> Result<(), StoreError> {
        self.0.defer(retries, reason).await
    }

    async fn reject(&mut self, retry: &DueRetry, reason: &str) -> Result<(), StoreError> {
        self.0.reject(retry, reason).await
    }
}

#[async_trait]
impl Upkeep for FaultyLeaderSession {
    async fn purge(&mut self, retention: Retention) -> Result<Purge, StoreError> {
        self.0.purge(retention).await
    }

    async fn add_up_failed_messages(&mut self) -> Result<(), StoreError> {
        self.0.add_up_failed_messages().await
    }
}

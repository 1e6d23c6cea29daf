//! The outbox of the store, and the session that publishes from it.

use std::collections::HashSet;

use async_trait::async_trait;

use crate::ports::{
    error::StoreError,
    failed_messages::DueRetry,
    outbox::{LeaderSession, Outbox, OutboxRow, PendingWork, Retention},
};

use super::store::MemoryStore;

#[async_trait]
impl Outbox for MemoryStore {
    async fn try_lead(&self) -> Result<Option<Box<dyn LeaderSession>>, StoreError> {
        Ok(Some(Box::new(self.clone())))
    }

    async fn wait_for_wakeup(&self) {
        self.committed.notified().await;
    }
}

/// Retries are not published: in the demo nothing comes back.
#[async_trait]
impl LeaderSession for MemoryStore {
    async fn pending(&mut self) -> Result<PendingWork, StoreError> {
        Ok(PendingWork { events: !self.state().await.outbox.is_empty(), retry_in: None })
    }

    async fn unpublished(&mut self, at_most: u32, except: &[String]) -> Result<Vec<OutboxRow>, StoreError> {
        let at_most = usize::try_from(at_most).unwrap_or(usize::MAX);
        Ok(self
            .state()
            .await
            .outbox
            .iter()
            .filter(|row| !except.contains(&row.sku))
            .take(at_most)
            .cloned()
            .collect())
    }

    async fn remove(&mut self, ids: &[i64], _unroutable: i64) -> Result<(), StoreError> {
        let ids: HashSet<_> = ids.iter().collect();
        self.state().await.outbox.retain(|row| !ids.contains(&row.id));
        Ok(())
    }

    async fn park(&mut self, id: i64, _reason: &str) -> Result<(), StoreError> {
        self.remove(&[id], 0).await
    }

    async fn due_retries(&mut self, _at_most: u32) -> Result<Vec<DueRetry>, StoreError> {
        Ok(Vec::new())
    }

    async fn retries_published(&mut self, _retries: &[&DueRetry]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn defer(&mut self, _retries: &[&DueRetry], _reason: &str) -> Result<(), StoreError> {
        Ok(())
    }

    async fn reject(&mut self, _retry: &DueRetry, _reason: &str) -> Result<(), StoreError> {
        Ok(())
    }

    async fn purge_expired(&mut self, _retention: Retention) -> Result<bool, StoreError> {
        Ok(false)
    }

    async fn release(self: Box<Self>) {}
}

//! The outbox of the store, and the session of its leader.

use std::collections::HashSet;

use async_trait::async_trait;
use tokio::sync::OwnedMutexGuard;

use crate::{
    domain::OutboxRow,
    ports::{
        error::StoreError,
        failed_messages::DueRetry,
        outbox::{EventFeed, LeaderSession, Outbox, ParkedEvents, PendingWork, RetryFeed},
    },
};

use super::state::{MemoryState, MemoryStore};

impl MemoryState {
    /// Rows that are not parked and have no parked row of their SKU.
    fn unpublished(&self) -> impl Iterator<Item = &OutboxRow> {
        let parked: HashSet<_> = self.parked_rows().map(|row| row.sku.as_str()).collect();
        self.outbox.iter().filter(move |row| !parked.contains(row.sku.as_str()))
    }

    fn parked_rows(&self) -> impl Iterator<Item = &OutboxRow> {
        self.outbox.iter().filter(|row| self.parked.contains_key(&row.id))
    }
}

#[async_trait]
impl Outbox for MemoryStore {
    async fn try_lead(&self) -> Result<Option<Box<dyn LeaderSession>>, StoreError> {
        let Ok(leadership) = self.leadership.clone().try_lock_owned() else { return Ok(None) };
        Ok(Some(Box::new(MemoryLeaderSession { store: self.clone(), _leadership: leadership })))
    }

    async fn probe(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn wait_for_wakeup(&self) {
        self.committed.notified().await;
    }
}

#[async_trait]
impl ParkedEvents for MemoryStore {
    async fn unpark(&self, ids: Option<&[i64]>) -> Result<usize, StoreError> {
        let mut state = self.state().await;
        let before = state.parked.len();
        state.parked.retain(|id, _| ids.is_some_and(|ids| !ids.contains(id)));
        self.committed.notify_one();
        Ok(before - state.parked.len())
    }
}

pub(super) struct MemoryLeaderSession {
    pub(super) store: MemoryStore,
    _leadership: OwnedMutexGuard<()>,
}

#[async_trait]
impl LeaderSession for MemoryLeaderSession {
    async fn release(self: Box<Self>) {
        let committed = self.store.committed.clone();
        drop(self);
        committed.notify_one();
    }
}

#[async_trait]
impl EventFeed for MemoryLeaderSession {
    async fn pending(&mut self) -> Result<PendingWork, StoreError> {
        let state = self.store.state().await;
        let events = state.unpublished().next().is_some();
        Ok(PendingWork { events, retry_in: state.failed_messages.retry_in() })
    }

    async fn unpublished(&mut self, at_most: u32, except: &[String]) -> Result<Vec<OutboxRow>, StoreError> {
        let at_most = usize::try_from(at_most).unwrap_or(usize::MAX);
        let state = self.store.state().await;
        let rows = state.unpublished().filter(|row| !except.contains(&row.sku));
        Ok(rows.take(at_most).cloned().collect())
    }

    async fn remove(&mut self, ids: &[i64], unroutable: &[i64]) -> Result<(), StoreError> {
        let ids: HashSet<_> = ids.iter().collect();
        let mut state = self.store.state().await;
        state.outbox.retain(|row| !ids.contains(&row.id));
        state.unroutable += i64::try_from(unroutable.len()).unwrap_or(i64::MAX);
        Ok(())
    }

    async fn record_nacked(&mut self, _names: &[String]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn park(&mut self, id: i64, reason: &str) -> Result<(), StoreError> {
        let mut state = self.store.state().await;
        if state.outbox.iter().any(|row| row.id == id) {
            state.parked.insert(id, reason.to_owned());
        }
        Ok(())
    }
}

#[async_trait]
impl RetryFeed for MemoryLeaderSession {
    async fn due(&mut self, at_most: u32, at_most_bytes: usize) -> Result<Vec<DueRetry>, StoreError> {
        let at_most = usize::try_from(at_most).unwrap_or(usize::MAX);
        Ok(self.store.state().await.failed_messages.due(at_most, at_most_bytes))
    }

    async fn published(&mut self, retries: &[&DueRetry]) -> Result<(), StoreError> {
        self.store.state().await.failed_messages.published(retries);
        Ok(())
    }

    async fn defer(&mut self, retries: &[&DueRetry], reason: &str) -> Result<(), StoreError> {
        self.store.state().await.failed_messages.defer(retries, reason);
        Ok(())
    }

    async fn reject(&mut self, retry: &DueRetry, reason: &str) -> Result<(), StoreError> {
        self.store.state().await.failed_messages.reject(retry, reason);
        Ok(())
    }
}

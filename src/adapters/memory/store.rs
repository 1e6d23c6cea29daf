//! The store: it begins transactions and counts starts.

use std::{collections::HashSet, sync::Arc};

use async_trait::async_trait;
use tokio::time::Instant;

use crate::ports::{
    error::StoreError,
    queue::QueueName,
    store::{LockMode, Store, Tx},
};

use super::{
    state::{MemoryStore, StartsRow},
    transaction::MemoryTx,
};

#[async_trait]
impl Store for MemoryStore {
    async fn begin_with(&self, queue: QueueName, _locks: LockMode) -> Result<Box<dyn Tx>, StoreError> {
        let state = self.state().await;
        Ok(Box::new(MemoryTx::new(state, queue, self.committed.clone())))
    }

    async fn probe(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn unfinished_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<Vec<u32>, StoreError> {
        let state = self.state().await;
        Ok(ids.iter().map(|id| state.starts.get(&(queue, id.clone())).map_or(0, |row| row.starts)).collect())
    }

    async fn record_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<(), StoreError> {
        let mut state = self.state().await;
        for id in ids.iter().collect::<HashSet<_>>() {
            let started_at = Instant::now();
            let row = state.starts.entry((queue, id.clone())).or_insert(StartsRow { starts: 0, started_at });
            *row = StartsRow { starts: row.starts + 1, started_at };
        }
        Ok(())
    }

    async fn revert_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<(), StoreError> {
        let mut state = self.state().await;
        for id in ids.iter().collect::<HashSet<_>>() {
            if let Some(row) = state.starts.get_mut(&(queue, id.clone())) {
                row.starts = row.starts.saturating_sub(1);
            }
        }
        state.starts.retain(|_, row| row.starts > 0);
        Ok(())
    }
}

//! Dry runs: a copy of the state, which is dropped.

use std::sync::Arc;

use async_trait::async_trait;
use time::OffsetDateTime;

use crate::{
    domain::FailedMessageKey,
    ports::{
        dry_run::{DryRun, DryRuns, RetriableMessages},
        error::StoreError,
        queue::QueueName,
        store::Store,
    },
};

use super::state::{MemoryState, MemoryStore};

#[async_trait]
impl DryRuns for MemoryStore {
    async fn begin(&self) -> Result<Box<dyn DryRun>, StoreError> {
        Ok(Box::new(MemoryDryRun(Self::with_state(self.state().await.clone()))))
    }
}

struct MemoryDryRun(MemoryStore);

#[async_trait]
impl DryRun for MemoryDryRun {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.0.clone())
    }

    async fn failed_messages(&mut self, ids: &[i64]) -> Result<RetriableMessages, StoreError> {
        let state = self.0.state().await;
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids.dedup();
        let is_handled = |queue, key: &FailedMessageKey| state.has_handled(queue, key);
        let messages = ids.into_iter().filter_map(|id| state.failed_messages.retriable(id, is_handled));
        // There is no clock.
        Ok(RetriableMessages { as_of: OffsetDateTime::UNIX_EPOCH, messages: messages.collect() })
    }

    async fn rollback(self: Box<Self>) {}
}

impl MemoryState {
    /// Whether the inbox has a message.
    fn has_handled(&self, queue: QueueName, key: &FailedMessageKey) -> bool {
        let row = key.message_id.as_ref().and_then(|id| self.inbox.get(&(queue, id.clone())));
        row.is_some_and(|row| FailedMessageKey::from(&row.key) == *key)
    }
}

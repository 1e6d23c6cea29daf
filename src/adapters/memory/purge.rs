//! Periodic upkeep: expired rows are removed, retries are published again whose copies may be lost, and messages that wait
//! for nothing are tried.

use async_trait::async_trait;

use crate::ports::{
    error::StoreError,
    outbox::{Retention, Upkeep},
};

use super::{outbox::MemoryLeaderSession, state::MemoryState};

#[async_trait]
impl Upkeep for MemoryLeaderSession {
    /// Removes all expired rows at once.
    async fn purge(&mut self, retention: Retention) -> Result<bool, StoreError> {
        self.store.state().await.purge(retention);
        Ok(false)
    }
}

impl MemoryState {
    fn purge(&mut self, retention: Retention) {
        // An id stays as long as another message with this id, for example an edited one, may be retried.
        let unresolved = self.failed_messages.unresolved();
        self.inbox.retain(|id, row| row.handled_at.elapsed() <= retention.inbox || unresolved.contains(id));
        self.failed_messages.purge(retention);
        self.starts.retain(|_, row| row.started_at.elapsed() <= retention.inbox);
    }
}

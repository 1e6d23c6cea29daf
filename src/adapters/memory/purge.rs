//! Periodic upkeep: expired rows are removed, retries are published again whose copies may be lost, and messages that wait
//! for nothing are tried.

use async_trait::async_trait;

use crate::ports::{
    error::StoreError,
    observer::PurgedRows,
    outbox::{Purge, Retention, Upkeep},
};

use super::{outbox::MemoryLeaderSession, state::MemoryState};

#[async_trait]
impl Upkeep for MemoryLeaderSession {
    /// Removes all expired rows at once.
    async fn purge(&mut self, retention: Retention) -> Result<Purge, StoreError> {
        let rows = self.store.state().await.purge(retention);
        Ok(Purge { rows, is_incomplete: false })
    }

    async fn add_up_failed_messages(&mut self) -> Result<(), StoreError> {
        Ok(()) // They are counted when they are read.
    }
}

impl MemoryState {
    fn purge(&mut self, retention: Retention) -> PurgedRows {
        let before = self.purgeable();
        // An id stays as long as another message with this id, for example an edited one, may be retried.
        let unresolved = self.failed_messages.unresolved();
        self.inbox.retain(|id, row| row.handled_at.elapsed() <= retention.inbox || unresolved.contains(id));
        self.failed_messages.purge(retention);
        self.starts.retain(|_, row| row.started_at.elapsed() <= retention.inbox);
        let after = self.purgeable();
        PurgedRows {
            inbox: before.inbox - after.inbox,
            failed_messages: before.failed_messages - after.failed_messages,
            message_starts: before.message_starts - after.message_starts,
            published_events: 0, // They are not kept.
        }
    }

    /// The rows of the tables that expire.
    fn purgeable(&self) -> PurgedRows {
        let [inbox, failed_messages, message_starts] =
            [self.inbox.len(), self.failed_messages.len(), self.starts.len()].map(|rows| rows as u64);
        PurgedRows { inbox, failed_messages, message_starts, published_events: 0 }
    }
}

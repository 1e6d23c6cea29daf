//! Messages that wait for a lock of another session, and the messages behind them.

use std::{collections::HashSet, sync::Arc};

use crate::ports::error::StoreError;

use super::{outcome::CommandOutcome, received::ReceivedMessage};

/// The keys and ids of blocked messages: a later message with one of them must not overtake.
#[derive(Debug, Default)]
pub(super) struct BlockedKeys {
    keys: HashSet<String>,
    ids: HashSet<Arc<str>>,
}

impl BlockedKeys {
    /// Whether the message must wait behind a blocked one.
    pub(super) fn hold(&self, received: &ReceivedMessage) -> bool {
        received.ordering_key().is_some_and(|key| self.keys.contains(key))
            || received.message_key().is_some_and(|key| self.ids.contains(&key.message_id))
    }

    /// The message is blocked.
    pub(super) fn add(&mut self, received: &ReceivedMessage) {
        self.keys.extend(received.ordering_key().map(str::to_owned));
        self.ids.extend(received.message_key().map(|key| key.message_id.clone()));
    }

    /// Gives the message the outcome that it is blocked.
    pub(super) fn block(&mut self, received: &mut ReceivedMessage, error: StoreError) {
        self.add(received);
        received.finish(CommandOutcome::Blocked(error));
    }

    /// Blocks the messages that must wait behind a blocked one, and returns the others.
    pub(super) fn admit<'a>(
        &mut self,
        batch: &'a mut [&mut ReceivedMessage],
    ) -> Vec<&'a mut ReceivedMessage> {
        let mut admitted = Vec::with_capacity(batch.len());
        for received in batch.iter_mut() {
            if self.hold(received) {
                self.block(received, behind_another());
            } else {
                admitted.push(&mut **received);
            }
        }
        admitted
    }
}

/// Why a message waits that needs no locked row itself.
pub(super) fn behind_another() -> StoreError {
    StoreError::Locked("an earlier message with the same key waits for a lock".into())
}

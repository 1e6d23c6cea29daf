//! What this process knows about locks of other sessions, so that it does not wait for the same lock again and again.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::ports::store::LockMode;

use super::received::ReceivedMessage;

/// How long a lock is remembered after it was met.
const REMEMBERED_FOR: Duration = Duration::from_secs(5);

/// The keys whose messages were blocked lately.
#[derive(Debug, Default)]
pub(super) struct Contention {
    keys: Mutex<HashMap<String, Instant>>,
}

impl Contention {
    /// A message with this key is blocked.
    pub(super) fn met(&self, received: &ReceivedMessage) {
        let now = Instant::now();
        let mut keys = self.keys();
        keys.retain(|_, met| now - *met < REMEMBERED_FOR);
        keys.insert(received.ordering_key().unwrap_or_default().to_owned(), now);
    }

    /// A message with this key was handled.
    pub(super) fn over(&self, received: &ReceivedMessage) {
        let mut keys = self.keys();
        if !keys.is_empty() {
            keys.remove(received.ordering_key().unwrap_or_default());
        }
    }

    /// Whether messages with this key were blocked lately.
    pub(super) fn concerns(&self, received: &ReceivedMessage) -> bool {
        let keys = self.keys();
        let met = received.ordering_key().and_then(|key| keys.get(key));
        met.is_some_and(|met| met.elapsed() < REMEMBERED_FOR)
    }

    /// How a unit of work with these messages should treat locks.
    pub(super) fn lock_mode(&self, batch: &[&ReceivedMessage]) -> LockMode {
        if batch.iter().any(|received| self.concerns(received)) {
            return LockMode::Skip;
        }
        let is_recent = self.keys().values().any(|met| met.elapsed() < REMEMBERED_FOR);
        if is_recent { LockMode::WaitBriefly } else { LockMode::Wait }
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

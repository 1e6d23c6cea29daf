//! What this process knows about locks of other sessions, so that it does not wait for the same lock again and again.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{info, warn};

use super::received::ReceivedMessage;

/// How long a lock is remembered after it was met.
const REMEMBERED_FOR: Duration = Duration::from_secs(30);

/// The partition keys of messages that needed a locked row.
#[derive(Debug, Default)]
pub(super) struct Contention {
    keys: Mutex<HashMap<String, Instant>>,
}

impl Contention {
    /// A message needs a row that is locked.
    pub(super) fn met(&self, received: &ReceivedMessage) {
        let (now, key) = (Instant::now(), received.partition_key().unwrap_or_default());
        let mut keys = self.keys();
        keys.retain(|_, met| now - *met < REMEMBERED_FOR);
        if keys.insert(key.to_owned(), now).is_none() {
            warn!(key, "another session has locked rows; the commands that need them are postponed");
        }
    }

    /// A message could be handled.
    pub(super) fn over(&self, received: &ReceivedMessage) {
        let mut keys = self.keys();
        if !keys.is_empty() {
            let key = received.partition_key().unwrap_or_default();
            if keys.remove(key).is_some() {
                info!(key, "rows that another session had locked are free");
            }
        }
    }

    /// Whether messages with the same partition key lately needed a row that was locked.
    pub(super) fn concerns(&self, received: &ReceivedMessage) -> bool {
        let keys = self.keys();
        if keys.is_empty() {
            return false;
        }
        let met = received.partition_key().and_then(|key| keys.get(key));
        met.is_some_and(|met| met.elapsed() < REMEMBERED_FOR)
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

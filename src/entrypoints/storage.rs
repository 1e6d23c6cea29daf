//! The space that failed messages take in the database. Senders can fill it; a full disk would stop everything that uses the
//! server, so consumption stops before.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::ports::{
    error::{StoreError, error_text},
    processes::STORAGE_FULL,
};

/// The time between two checks.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// The same while the limit is exceeded: the check then reads the sizes of all failed messages.
const FULL_CHECK_INTERVAL: Duration = Duration::from_secs(15);

/// Whether failed messages take more space than allowed. Clones are one state.
#[derive(Clone)]
pub struct Storage(watch::Sender<Option<String>>);

impl Default for Storage {
    /// Within its limit.
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Storage {
    /// Why no message may be consumed; `None` if failed messages are within their limit.
    #[must_use]
    pub fn is_full(&self) -> Option<String> {
        self.0.borrow().clone()
    }

    /// Waits until failed messages exceed their limit.
    pub(super) async fn filled(&self) {
        // The sender is this, so the channel is open.
        let _ = self.0.subscribe().wait_for(Option::is_some).await;
    }

    /// Waits until failed messages are within their limit.
    pub(super) async fn freed(&self) {
        let _ = self.0.subscribe().wait_for(Option::is_none).await;
    }

    /// Compares the space, which `bytes` reads, with the limit until `stop`. A database that does not answer changes nothing.
    pub async fn monitor<F>(&self, bytes: impl Fn() -> F, limit: u64, stop: &CancellationToken)
    where
        F: Future<Output = Result<u64, StoreError>>,
    {
        loop {
            match bytes().await {
                Ok(bytes) => self.set(bytes, limit),
                Err(error) => debug!(error = error_text(&error), "the space of failed messages is unknown"),
            }
            let interval = if self.is_full().is_some() { FULL_CHECK_INTERVAL } else { CHECK_INTERVAL };
            if stop.run_until_cancelled(tokio::time::sleep(interval)).await.is_none() {
                return;
            }
        }
    }

    fn set(&self, bytes: u64, limit: u64) {
        let was_full = self.is_full().is_some();
        if bytes > limit && !was_full {
            warn!(
                bytes,
                limit,
                "{STORAGE_FULL}; no queue is consumed: remove their cause, then retry or discard them, or raise the limit"
            );
            self.0.send_replace(Some(STORAGE_FULL.to_owned()));
        } else if bytes <= limit && was_full {
            info!(
                bytes,
                limit,
                "failed messages take less space than limits.failed_messages; queues are consumed again"
            );
            self.0.send_replace(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_state_follows_the_bytes() {
        let storage = Storage::default();
        storage.set(100, 100);
        assert_eq!(storage.is_full(), None);
        storage.freed().await;
        storage.set(101, 100);
        assert!(storage.is_full().is_some_and(|reason| reason.contains("limits.failed_messages")));
        storage.filled().await;
        storage.set(100, 100);
        storage.freed().await;
        assert_eq!(storage.is_full(), None);
    }
}

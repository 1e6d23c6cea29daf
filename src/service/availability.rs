//! Unavailable servers: the error, and a log that reports each outage once, however many tasks detect it.

use std::{
    error::Error,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use tracing::{info, warn};

use crate::ports::error::{NotifierError, StoreError, error_text};

/// A server is unavailable: the outcome of the messages is unknown, and no attempt is counted.
#[derive(Debug, thiserror::Error)]
pub enum ServerUnavailable {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The mail server.
    #[error(transparent)]
    Notifier(#[from] NotifierError),
}

/// Whether a server is unavailable, for the whole process.
#[derive(Debug)]
pub struct AvailabilityLog {
    what: &'static str,
    since: Mutex<Option<Instant>>,
}

impl AvailabilityLog {
    /// `what` is named in the log: "the database", "the broker".
    #[must_use]
    pub fn of(what: &'static str) -> Self {
        Self { what, since: Mutex::new(None) }
    }

    /// It did not answer. Only the first error is logged, with its whole chain.
    pub fn down(&self, error: &dyn Error) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        if since.is_none() {
            *since = Some(Instant::now());
            warn!(error = error_text(error), "waiting for {}", self.what);
        }
    }

    /// It answered. Logged if it was down.
    pub fn up(&self) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(begin) = since.take() {
            let away_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
            info!(away_ms, "{} is back", self.what);
        }
    }

    /// Whether the last contact with it failed.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.since.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

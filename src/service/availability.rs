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
    dependency: &'static str,
    since: Mutex<Option<Instant>>,
}

impl AvailabilityLog {
    /// `dependency` names the server in the log: "database", "broker", "mail server".
    #[must_use]
    pub fn of(dependency: &'static str) -> Self {
        Self { dependency, since: Mutex::new(None) }
    }

    /// It did not answer. Only the first error is logged, with its whole chain.
    pub fn down(&self, error: &dyn Error) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        if since.is_none() {
            *since = Some(Instant::now());
            let dependency = self.dependency;
            warn!(dependency, error = error_text(error), "{dependency} unavailable, retrying");
        }
    }

    /// It answered. Logged if it was down.
    pub fn up(&self) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(begin) = since.take() {
            let outage_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
            let dependency = self.dependency;
            info!(dependency, outage_ms, "{dependency} available again");
        }
    }

    /// Whether the last contact with it failed.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.since.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

//! Servers that are away: the error that says so, and who says it once, however many tasks notice.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use tracing::{info, warn};

use crate::ports::{notifier::NotifierError, store::StoreError};

use super::unit_of_work::sanitize;

/// A server is away: nothing is known about the messages, and nothing counts against them.
#[derive(Debug, thiserror::Error)]
pub enum ServerUnavailable {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Whoever tells people.
    #[error(transparent)]
    Notifier(#[from] NotifierError),
}

/// Whether a server is away, for the whole process.
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

    /// It did not answer. Logged the first time.
    pub fn down(&self, error: &dyn std::fmt::Display) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        if since.is_none() {
            *since = Some(Instant::now());
            let error = sanitize(&error.to_string());
            let dependency = self.what.trim_start_matches("the ");
            warn!(dependency, %error, "waiting for {}", self.what);
        }
    }

    /// It answered. Logged if it had been away.
    pub fn up(&self) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(begin) = since.take() {
            let away_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
            info!(away_ms, "{} is back", self.what);
        }
    }

    /// Whether it is away, as far as anybody noticed.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.since.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

//! Whether a task makes progress.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Since when a task is busy with one piece of work. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Activity(Arc<Mutex<Option<Instant>>>);

impl Activity {
    /// The task begins a piece of work, or tries it again after waiting for a server.
    pub fn begin(&self) {
        *self.since() = Some(Instant::now());
    }

    /// The task has nothing to do.
    pub fn end(&self) {
        *self.since() = None;
    }

    /// How long the task has been busy with the same piece of work; `None` if it has nothing to do.
    #[must_use]
    pub fn busy_for(&self) -> Option<Duration> {
        self.since().map(|since| since.elapsed())
    }

    /// Whether the task has been busy with the same piece of work for longer than this.
    #[must_use]
    pub fn is_stalled(&self, longer_than: Duration) -> bool {
        self.busy_for().is_some_and(|busy| busy > longer_than)
    }

    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

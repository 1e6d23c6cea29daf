//! The log of failures. Senders can make any number of messages fail: of those that fail in the same way within a second, the
//! first few have a line each, and the others one line together.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tracing::warn;

/// The number of failures of one kind within an interval that have a line each.
const FIRST: u64 = 5;
/// The number of kinds of failures within an interval that are distinguished.
const MAX_KINDS: usize = 50;
const INTERVAL: Duration = Duration::from_secs(1);

/// The failures of a queue since the last interval.
#[derive(Clone)]
pub(super) struct FailureLog {
    queue: &'static str,
    /// The number of failures by kind; empty if no interval has begun.
    counts: Arc<Mutex<HashMap<String, u64>>>,
}

impl FailureLog {
    pub(super) fn of(queue: &'static str) -> Self {
        Self { queue, counts: Arc::default() }
    }

    /// A message failed in this way. True if it is to have a line of its own.
    pub(super) fn admits(&self, kind: String) -> bool {
        let mut counts = self.counts();
        if counts.is_empty() {
            let log = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(INTERVAL).await;
                log.log_others();
            });
        }
        let is_distinguished = counts.len() < MAX_KINDS || counts.contains_key(&kind);
        let count = counts.entry(if is_distinguished { kind } else { "others".into() }).or_default();
        *count += 1;
        *count <= FIRST
    }

    /// Ends the interval.
    fn log_others(&self) {
        let queue = self.queue;
        for (error, count) in std::mem::take(&mut *self.counts()) {
            let more = count.saturating_sub(FIRST);
            if more > 0 {
                warn!(
                    queue,
                    error, more, "more messages failed in the same way; run `allocation dead-letters groups`"
                );
            }
        }
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_failures_of_a_kind_in_a_second_have_lines() {
        let log = FailureLog::of("orders");
        for _ in 0..2 {
            let admitted = (0..100).filter(|_| log.admits("a".into())).count();
            assert_eq!(admitted, 5);
            assert!(log.admits("b".into()), "another kind");
            tokio::time::sleep(INTERVAL + Duration::from_millis(1)).await;
        }
        assert!(log.counts().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_kinds_is_bounded() {
        let log = FailureLog::of("orders");
        let admitted = (0..20_000).filter(|number| log.admits(number.to_string())).count();
        assert_eq!(admitted, MAX_KINDS + 5);
        assert_eq!(log.counts().len(), MAX_KINDS + 1);
    }
}

//! How many things happened within the last minute.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

const BUCKETS: usize = 12;
const BUCKET: Duration = Duration::from_secs(5);

/// Counts over the last minute, to within five seconds.
pub struct RecentCount {
    start: Instant,
    buckets: Mutex<Buckets>,
}

#[derive(Default)]
struct Buckets {
    counts: [u64; BUCKETS],
    /// The number of the newest bucket since the start.
    newest: u64,
}

impl Default for RecentCount {
    fn default() -> Self {
        Self { start: Instant::now(), buckets: Mutex::default() }
    }
}

impl RecentCount {
    /// So many happened now.
    pub fn add(&self, count: usize) {
        self.with_buckets(|counts, newest| counts[newest] += count as u64);
    }

    /// How many happened within the last minute.
    #[must_use]
    pub fn within_last_minute(&self) -> u64 {
        self.with_buckets(|counts, _| counts.iter().sum())
    }

    fn with_buckets<T>(&self, read: impl FnOnce(&mut [u64; BUCKETS], usize) -> T) -> T {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.start.elapsed().as_secs() / BUCKET.as_secs();
        for bucket in (buckets.newest + 1..=now).rev().take(BUCKETS) {
            buckets.counts[index(bucket)] = 0;
        }
        buckets.newest = now;
        read(&mut buckets.counts, index(now))
    }
}

fn index(bucket: u64) -> usize {
    usize::try_from(bucket % BUCKETS as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_happened_more_than_a_minute_ago_does_not_count() {
        let count = RecentCount::default();
        assert_eq!(count.within_last_minute(), 0);
        count.add(3);
        tokio::time::advance(Duration::from_secs(50)).await;
        count.add(4);
        assert_eq!(count.within_last_minute(), 7);
        tokio::time::advance(Duration::from_secs(12)).await;
        assert_eq!(count.within_last_minute(), 4);
        tokio::time::advance(Duration::from_hours(1)).await;
        assert_eq!(count.within_last_minute(), 0);
        count.add(1);
        assert_eq!(count.within_last_minute(), 1);
    }
}

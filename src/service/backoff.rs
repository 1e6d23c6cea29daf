//! Delays between tries. This is the only place that uses the `backoff` crate, for arithmetic.

use std::time::Duration;

use backoff::{ExponentialBackoff, ExponentialBackoffBuilder, backoff::Backoff as _};

/// A conflict ends with the other transaction.
const CONFLICT_INITIAL: Duration = Duration::from_millis(5);
/// The number of immediate retries before a conflict counts as a failure.
const CONFLICT_TRIES: usize = 6;
/// The delay before the first probe of an unavailable server.
const OUTAGE_INITIAL: Duration = Duration::from_millis(100);
/// A server that is available again is detected within about two seconds.
const OUTAGE_LONGEST: Duration = Duration::from_secs(2);

/// The delay before a message is tried again that needs a row which another session has locked.
const LOCK_INITIAL: Duration = Duration::from_secs(1);
/// A lock that was released is noticed within about this time. Many messages may wait for one lock, and each try is a message.
const LOCK_LONGEST: Duration = Duration::from_secs(10);

/// The delay after messages were returned to their queue once.
const REQUEUE_INITIAL: Duration = Duration::from_secs(1);
/// With this delay between two deliveries, a message reaches the delivery limit of its queue only after hours.
const REQUEUE_LONGEST: Duration = Duration::from_mins(5);

/// The longest delay between two attempts of a deferred notification: mail servers expect about this.
const DEFERRED_LONGEST: Duration = Duration::from_mins(30);

/// Delays between tries; the iterator ends when there should be no other try.
pub struct Backoff {
    backoff: ExponentialBackoff,
    left: Option<usize>,
}

impl Backoff {
    /// A few short delays, for conflicts with other transactions.
    #[must_use]
    pub fn after_conflict() -> Self {
        Self {
            backoff: exponential(CONFLICT_INITIAL, 3.0, 0.5, Duration::from_millis(500)),
            left: Some(CONFLICT_TRIES),
        }
    }

    /// Delays without end, for messages that were returned to their queue although the servers answer: each delivery counts
    /// towards the delivery limit of the queue.
    #[must_use]
    pub fn after_requeue() -> Self {
        Self { backoff: exponential(REQUEUE_INITIAL, 2.0, 0.2, REQUEUE_LONGEST), left: None }
    }

    /// Delays without end, for unavailable servers.
    #[must_use]
    pub fn during_outage() -> Self {
        Self { backoff: exponential(OUTAGE_INITIAL, 2.0, 0.2, OUTAGE_LONGEST), left: None }
    }
}

impl Iterator for Backoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(1)?;
        }
        self.backoff.next_backoff()
    }
}

/// When failed messages are retried.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// The number of attempts after which a message is dead.
    pub max_attempts: u32,
    /// The delay after the first attempt.
    pub initial_interval: Duration,
    /// The factor from one delay to the next.
    pub multiplier: f64,
    /// The longest delay.
    pub max_interval: Duration,
    /// The random part of a delay, relative to it: messages that failed together are not retried together.
    pub jitter: f64,
    /// How long a notification is retried that its receiver defers.
    pub deferred_for: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 5,
            initial_interval: Duration::from_secs(1),
            multiplier: 3.0,
            max_interval: Duration::from_mins(5),
            jitter: 0.2,
            deferred_for: Duration::from_hours(48),
        }
    }
}

impl RetryPolicy {
    /// The delay after this number of attempts.
    #[must_use]
    pub fn delay(&self, attempts: u32) -> Duration {
        let mut backoff = exponential(self.initial_interval, self.multiplier, self.jitter, self.max_interval);
        let mut delay = Duration::ZERO;
        for _ in 0..attempts.max(1) {
            delay = backoff.next_backoff().unwrap_or(self.max_interval);
        }
        delay
    }
}

impl RetryPolicy {
    /// The delay of a message that could not be attempted, after it was recorded this number of times.
    #[must_use]
    pub fn postponement(&self, recorded: i64) -> Duration {
        let mut delays = exponential(LOCK_INITIAL, 2.0, self.jitter, LOCK_LONGEST);
        let mut delay = LOCK_INITIAL;
        for _ in 0..=recorded.clamp(0, 10) {
            delay = delays.next_backoff().unwrap_or(LOCK_LONGEST);
        }
        delay
    }

    /// The delay after this number of attempts at a deferred notification; `None` if it was retried for long enough. The
    /// delays up to now are added up without their random parts.
    #[must_use]
    pub fn deferred_delay(&self, attempts: u32) -> Option<Duration> {
        let longest = DEFERRED_LONGEST.max(self.initial_interval);
        let mut delays = exponential(self.initial_interval, self.multiplier, 0.0, longest);
        let (mut delay, mut total) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..attempts.max(1) {
            total += delay;
            if total >= self.deferred_for {
                return None;
            }
            delay = delays.next_backoff().unwrap_or(longest);
        }
        exponential(delay, 1.0, self.jitter, delay).next_backoff()
    }
}

fn exponential(initial: Duration, multiplier: f64, jitter: f64, longest: Duration) -> ExponentialBackoff {
    ExponentialBackoffBuilder::new()
        .with_initial_interval(initial)
        .with_multiplier(multiplier)
        .with_randomization_factor(jitter)
        .with_max_interval(longest)
        .with_max_elapsed_time(None)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deferred_notification_is_retried_for_its_time() {
        let policy = RetryPolicy { jitter: 0.0, ..RetryPolicy::default() };
        let delays = (1..).map_while(|attempts| policy.deferred_delay(attempts));
        let delays: Vec<_> = delays.map(|delay| delay.as_secs()).collect();
        assert_eq!(delays[..8], [1, 3, 9, 27, 81, 243, 729, 1800]);
        let total: u64 = delays.iter().sum();
        assert!((172_800..172_800 + 1800).contains(&total), "{total} s");
        let none = RetryPolicy { deferred_for: Duration::ZERO, ..policy };
        assert_eq!(none.deferred_delay(1), None);
    }

    #[test]
    fn retries_wait_longer_each_time_within_their_jitter() {
        let policy = RetryPolicy::default();
        for (attempts, seconds) in [(1, 1.0), (2, 3.0), (3, 9.0), (4, 27.0), (9, 300.0), (500, 300.0)] {
            let delay = policy.delay(attempts).as_secs_f64() / seconds;
            assert!((0.8..=1.2).contains(&delay), "attempt {attempts}: {delay} of {seconds} s");
        }
    }

    /// What failed together must not come back together.
    #[test]
    fn equal_failures_wait_for_different_times() {
        let differ = |first: &dyn Fn() -> Option<Duration>| {
            let delays: std::collections::HashSet<_> = (0..20).map(|_| first().unwrap()).collect();
            delays.len() > 10
        };
        assert!(differ(&|| Some(RetryPolicy::default().delay(1))), "retries");
        assert!(differ(&|| Backoff::after_conflict().next()), "conflicts");
        assert!(differ(&|| Backoff::during_outage().next()), "probes during an outage");
    }

    #[test]
    fn a_postponed_message_is_tried_again_within_seconds() {
        let policy = RetryPolicy { jitter: 0.0, ..RetryPolicy::default() };
        let delays =
            [-1, 0, 1, 2, 3, 4, 100, i64::MAX].map(|recorded| policy.postponement(recorded).as_secs());
        assert_eq!(delays, [1, 1, 2, 4, 8, 10, 10, 10]);
    }

    #[test]
    fn conflicts_are_given_up_and_outages_are_not() {
        assert_eq!(Backoff::after_conflict().count(), CONFLICT_TRIES);
        let longest = Backoff::during_outage().take(100).max().unwrap();
        assert!(longest <= OUTAGE_LONGEST.mul_f64(1.2), "{longest:?}");
    }
}

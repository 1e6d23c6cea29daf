//! How long to wait before the next try: the only place that knows the `backoff` crate, used for arithmetic.

use std::time::Duration;

use backoff::{ExponentialBackoff, ExponentialBackoffBuilder, backoff::Backoff as _};

/// Conflicts are over as soon as the other transaction is.
const CONFLICT_INITIAL: Duration = Duration::from_millis(5);
/// How often a conflict is tried again before it counts as a failure.
const CONFLICT_TRIES: usize = 6;
/// The first probe of a server that went away.
const OUTAGE_INITIAL: Duration = Duration::from_millis(100);
/// Servers that come back are to be found within two seconds.
const OUTAGE_LONGEST: Duration = Duration::from_secs(2);

/// Handed back once, messages are taken again soon.
const HAND_BACK_INITIAL: Duration = Duration::from_secs(1);
/// With fifty deliveries of a message and this between two, it takes hours to reach the delivery limit.
const HAND_BACK_LONGEST: Duration = Duration::from_mins(5);

/// Waits between tries; it ends when there should be no other try.
pub struct Backoff {
    backoff: ExponentialBackoff,
    left: Option<usize>,
}

impl Backoff {
    /// A few short ones, for conflicts with other transactions.
    #[must_use]
    pub fn after_conflict() -> Self {
        Self {
            backoff: exponential(CONFLICT_INITIAL, 3.0, 0.5, Duration::from_millis(500)),
            left: Some(CONFLICT_TRIES),
        }
    }

    /// Endless ones, for messages that were handed back although the servers answer: each time they are taken counts as a
    /// delivery, and the queue has a limit of those.
    #[must_use]
    pub fn after_hand_back() -> Self {
        Self { backoff: exponential(HAND_BACK_INITIAL, 2.0, 0.2, HAND_BACK_LONGEST), left: None }
    }

    /// Endless ones, for servers that are away.
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

/// How failed attempts are tried again.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// After so many attempts a command is dead.
    pub max_attempts: u32,
    /// The delay after the first attempt.
    pub initial_interval: Duration,
    /// By how much each delay is longer than the one before.
    pub multiplier: f64,
    /// The longest delay.
    pub max_interval: Duration,
    /// How far a delay may be off, as a part of itself, so that those who failed together do not come back together.
    pub jitter: f64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 5,
            initial_interval: Duration::from_secs(1),
            multiplier: 3.0,
            max_interval: Duration::from_mins(5),
            jitter: 0.2,
        }
    }
}

impl RetryPolicy {
    /// How long to wait after so many attempts.
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
    fn conflicts_are_given_up_and_outages_are_not() {
        assert_eq!(Backoff::after_conflict().count(), CONFLICT_TRIES);
        let longest = Backoff::during_outage().take(100).max().unwrap();
        assert!(longest <= OUTAGE_LONGEST.mul_f64(1.2), "{longest:?}");
    }
}

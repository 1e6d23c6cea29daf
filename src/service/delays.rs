//! How long to wait before the next try: the only place that knows the `backoff` crate, used for arithmetic.

use std::time::Duration;

use backoff::{ExponentialBackoff, ExponentialBackoffBuilder, backoff::Backoff};

/// Conflicts are over as soon as the other transaction is.
const CONFLICT_INITIAL: Duration = Duration::from_millis(5);
/// How often a conflict is tried again before it counts as a failure.
const CONFLICT_TRIES: usize = 6;
/// The first probe of a server that went away.
const OUTAGE_INITIAL: Duration = Duration::from_millis(100);
/// Servers that come back are to be found within two seconds.
const OUTAGE_LONGEST: Duration = Duration::from_secs(2);

/// Waits between tries; it ends when there should be no other try.
pub struct Delays {
    backoff: ExponentialBackoff,
    left: Option<usize>,
}

impl Delays {
    /// A few short ones, for conflicts with other transactions.
    #[must_use]
    pub fn after_conflict() -> Self {
        Self {
            backoff: exponential(CONFLICT_INITIAL, 3.0, 0.5, Duration::from_millis(500)),
            left: Some(CONFLICT_TRIES),
        }
    }

    /// Endless ones, for servers that are away.
    #[must_use]
    pub fn during_outage() -> Self {
        Self {
            backoff: exponential(OUTAGE_INITIAL, 2.0, 0.2, OUTAGE_LONGEST),
            left: None,
        }
    }
}

impl Iterator for Delays {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(1)?;
        }
        self.backoff.next_backoff()
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
    fn conflicts_are_given_up_and_outages_are_not() {
        assert_eq!(Delays::after_conflict().count(), CONFLICT_TRIES);
        let longest = Delays::during_outage().take(100).max().unwrap();
        assert!(longest <= OUTAGE_LONGEST.mul_f64(1.2), "{longest:?}");
    }
}

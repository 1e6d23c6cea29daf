//! When something began and how long it took.

use std::time::{Duration, Instant, SystemTime};

/// A period of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// Its begin, by the clock of this machine.
    pub begin: SystemTime,
    /// Its length, by a clock that is never set.
    pub duration: Duration,
}

impl Period {
    /// Its end.
    #[must_use]
    pub fn end(&self) -> SystemTime {
        self.begin + self.duration
    }
}

/// Measures a period that has begun.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Begins now.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since the begin.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    /// The time from the begin of another one to the begin of this.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Duration {
        self.0.saturating_duration_since(earlier.0)
    }

    /// The period from the begin until now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the time of a report is compared with no stored time")]
    pub fn period(&self) -> Period {
        let (now, duration) = (SystemTime::now(), self.elapsed());
        Period { begin: now.checked_sub(duration).unwrap_or(now), duration }
    }
}

//! Waiting for what should become true, never for time to pass.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

/// How often a condition is looked at.
pub(crate) const POLL: Duration = Duration::from_millis(5);

/// What should have become true did not, in the time it had.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct TooLate(String);

/// Waits until a condition holds; says how long it took.
pub(crate) async fn until(
    what: &str,
    within: Duration,
    mut holds: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    while !holds().await? {
        if begin.elapsed() > within {
            return Err(TooLate(format!("{what}: not within {within:?}")).into());
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(begin.elapsed())
}

/// Waits until something has the value it should have; says both if it never does.
pub(crate) async fn until_is<T: PartialEq + Debug>(
    what: &str,
    within: Duration,
    expected: &T,
    mut look: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    loop {
        let found = look().await?;
        if found == *expected {
            return Ok(begin.elapsed());
        }
        if begin.elapsed() > within {
            return Err(TooLate(format!("{what}: after {within:?} {found:?}, not {expected:?}")).into());
        }
        tokio::time::sleep(POLL).await;
    }
}

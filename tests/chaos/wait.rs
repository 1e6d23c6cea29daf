//! Waits for conditions, never for time to pass.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

/// The interval between two checks of a condition.
pub(crate) const POLL: Duration = Duration::from_millis(5);

/// The condition was not met within the time limit.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct TimedOut(String);

/// Waits until a condition is met, and returns the duration.
pub(crate) async fn wait_until(
    description: &str,
    timeout: Duration,
    mut condition: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    while !condition().await? {
        if begin.elapsed() > timeout {
            return Err(TimedOut(format!("{description}: not within {timeout:?}")).into());
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(begin.elapsed())
}

/// Waits until a value equals the expected one. The error names both.
pub(crate) async fn wait_until_equal<T: PartialEq + Debug>(
    description: &str,
    timeout: Duration,
    expected: &T,
    mut read: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    loop {
        let found = read().await?;
        if found == *expected {
            return Ok(begin.elapsed());
        }
        if begin.elapsed() > timeout {
            return Err(TimedOut(format!(
                "{description}: after {timeout:?} {found:?}, expected {expected:?}"
            ))
            .into());
        }
        tokio::time::sleep(POLL).await;
    }
}

//! Waits for a server at start.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::service::{availability::AvailabilityLog, backoff::Backoff};

/// Repeats `request` with growing delays until it succeeds. `None` if `stop` is cancelled first.
pub(super) async fn retry_until_available<T, E, F>(
    log: &AvailabilityLog,
    stop: &CancellationToken,
    request: impl Fn() -> F,
) -> Option<T>
where
    F: Future<Output = Result<T, E>>,
    E: Into<anyhow::Error>,
{
    let mut delays = Backoff::during_outage();
    loop {
        match stop.run_until_cancelled(request()).await? {
            Ok(answer) => {
                log.up();
                return Some(answer);
            }
            Err(error) => log.down(&*error.into()),
        }
        let delay = delays.next().unwrap_or(Duration::from_secs(1));
        stop.run_until_cancelled(tokio::time::sleep(delay)).await?;
    }
}

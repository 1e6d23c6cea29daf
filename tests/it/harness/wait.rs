//! Conditions with deadlines, instead of sleeps.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

/// How often a condition is checked.
const POLL: Duration = Duration::from_millis(20);
/// Everything that was sent is handled and published by then, even on a small machine that runs several tests at once.
pub(crate) const DRAINS_WITHIN: Duration = Duration::from_mins(1);
/// Deadline of a condition that holds soon unless something is broken. Generous, because the machine may be busy.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Waits until a condition holds.
pub(crate) async fn wait_until(what: &str, within: Duration, holds: impl AsyncFnMut() -> bool) {
    wait_for(what, within, &true, holds).await;
}

/// Waits until a value is the expected one; fails with both if it never is.
pub(crate) async fn wait_for<T: PartialEq + Debug>(
    what: &str,
    within: Duration,
    expected: &T,
    mut look: impl AsyncFnMut() -> T,
) {
    let begin = Instant::now();
    loop {
        let found = look().await;
        if found == *expected {
            return;
        }
        assert!(begin.elapsed() < within, "{what}: after {within:?} {found:?}, not {expected:?}");
        tokio::time::sleep(POLL).await;
    }
}

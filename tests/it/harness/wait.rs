//! Conditions with deadlines, instead of sleeps.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

/// How often a condition is checked.
const POLL: Duration = Duration::from_millis(20);
/// The deadline for all sent commands to be handled and published, also on a machine that runs several tests.
pub(crate) const DRAINS_WITHIN: Duration = Duration::from_mins(1);
/// The deadline of a condition that holds soon. It is generous, because the machine may be busy.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Waits until a condition holds.
pub(crate) async fn wait_until(what: &str, within: Duration, holds: impl AsyncFnMut() -> bool) {
    wait_for(what, within, &true, holds).await;
}

/// Waits until a value equals the expected one; after the deadline, fails with both.
pub(crate) async fn wait_for<T: PartialEq + Debug>(
    what: &str,
    within: Duration,
    expected: &T,
    mut read: impl AsyncFnMut() -> T,
) {
    let begin = Instant::now();
    loop {
        let found = read().await;
        if found == *expected {
            return;
        }
        assert!(begin.elapsed() < within, "{what}: after {within:?} {found:?}, not {expected:?}");
        tokio::time::sleep(POLL).await;
    }
}

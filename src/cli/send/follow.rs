//! `allocation send --follow`: waits for the results of what was sent.

use std::time::{Duration, Instant};

use anyhow::bail;

use crate::views::{RecordedTotals, Views};

use super::report::{FollowReport, SendReport};

const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Time without any progress after which the wait ends.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);
/// With `--in-order` the sender waits often, and each time only a little.
const SHORT_POLL_INTERVAL: Duration = Duration::from_millis(5);
/// Notifications count as complete when none was delivered for this time.
const NOTIFICATIONS_SETTLE: Duration = Duration::from_millis(500);

/// Waits until all commands are handled and all events are published, or until nothing changes any more.
///
/// # Errors
/// The database is unavailable.
pub(super) async fn follow(
    views: &Views,
    sent: &SendReport,
    before: RecordedTotals,
    begin: Instant,
) -> anyhow::Result<FollowReport> {
    let (message_ids, orderids) = sent.ids();
    let (mut last, mut changed) = (None, Instant::now());
    loop {
        let progress = views.send_progress(&message_ids, &orderids).await?;
        let unpublished = views.outbox_depth().await?.pending;
        let current = Some((progress.handled, unpublished));
        if last != current {
            (last, changed) = (current, Instant::now());
        }
        let done = progress.handled == sent.commands() && unpublished == 0;
        if done || changed.elapsed() > GIVE_UP_AFTER {
            let took = begin.elapsed();
            let totals = settled_totals(views, before).await?;
            let (events, notifications) =
                (totals.events - before.events, totals.notifications - before.notifications);
            return Ok(FollowReport { progress, events, notifications, unpublished, took });
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// The totals once notifications stopped being delivered. Without new events there are none to wait for.
async fn settled_totals(views: &Views, before: RecordedTotals) -> anyhow::Result<RecordedTotals> {
    let (mut totals, mut changed) = (views.recorded_totals().await?, Instant::now());
    while totals.events > before.events && changed.elapsed() < NOTIFICATIONS_SETTLE {
        tokio::time::sleep(POLL_INTERVAL).await;
        let current = views.recorded_totals().await?;
        if current != totals {
            (totals, changed) = (current, Instant::now());
        }
    }
    Ok(totals)
}

/// Waits until all commands that were sent so far are handled.
///
/// # Errors
/// The database is unavailable, or nothing was handled for [`GIVE_UP_AFTER`].
pub(super) async fn wait_handled(views: &Views, sent: &SendReport) -> anyhow::Result<()> {
    let (message_ids, _) = sent.ids();
    let (mut last, mut changed) = (0, Instant::now());
    loop {
        let handled = views.send_progress(&message_ids, &[]).await?.handled;
        if handled == sent.commands() {
            return Ok(());
        }
        if last != handled {
            (last, changed) = (handled, Instant::now());
        }
        if changed.elapsed() > GIVE_UP_AFTER {
            bail!(
                "--in-order: {handled} of {} commands handled, and none for {GIVE_UP_AFTER:?}; see `allocation status`",
                sent.commands()
            );
        }
        tokio::time::sleep(SHORT_POLL_INTERVAL).await;
    }
}

//! `allocation send --follow`: waits for the results of what was sent.

use std::time::{Duration, Instant};

use crate::views::Views;

use super::report::{FollowReport, SendReport};

const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Time without any progress after which the wait ends.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);

/// Waits until all commands are handled and all events are published, or until nothing changes any more.
///
/// # Errors
/// The database is unavailable.
pub(super) async fn follow(
    views: &Views,
    sent: &SendReport,
    events_before: i64,
    begin: Instant,
) -> anyhow::Result<FollowReport> {
    let message_ids: Vec<_> = sent.message_ids.iter().cloned().collect();
    let orderids: Vec<_> = sent.orderids.iter().cloned().collect();
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
            let events = views.recorded_totals().await?.events - events_before;
            return Ok(FollowReport { progress, events, unpublished, took: begin.elapsed() });
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

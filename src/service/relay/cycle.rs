//! What the publication of events and of retries has in common.

use std::time::Duration;

use tracing::error;

use crate::{
    domain::PublishOutcome,
    ports::{
        answered::Answered,
        error::{Cause, StoreError},
        outbox::EventFeed,
    },
    service::availability::AvailabilityLog,
};

/// How long a standby or an idle leader waits for a wakeup before it polls. The session of a leader that has not polled
/// for several times as long is terminated by a standby.
pub(super) const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The result of one cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CycleResult {
    /// There was nothing to publish, and nothing will be due within this time.
    Idle(Duration),
    /// Something was published, or has to wait without delaying others.
    Progress,
    /// There was something to publish, and nothing was published.
    Stalled,
}

/// Polls the session while the broker's answers are awaited, so that the leader does not count as unresponsive. If the
/// session is lost, the publication is dropped.
pub(super) async fn with_heartbeat<T>(
    session: &mut dyn EventFeed,
    publication: impl Future<Output = T>,
) -> Result<T, StoreError> {
    let mut publication = std::pin::pin!(publication);
    loop {
        match tokio::time::timeout(POLL_INTERVAL, &mut publication).await {
            Ok(outcomes) => return Ok(outcomes),
            Err(_) => session.pending().await.map(drop)?,
        }
    }
}

/// Pairs messages with their outcomes. `None` if outcomes are missing: then none of them can be attributed.
pub(super) fn pair<M>(
    messages: Vec<M>,
    outcomes: Vec<PublishOutcome>,
) -> Option<Answered<M, PublishOutcome>> {
    Answered::new(messages, outcomes)
        .inspect_err(|error| error!(%error, "publisher lost outcomes; all messages will be published again"))
        .ok()
}

/// Reports the broker as unavailable, or as available if there is no error.
pub(super) fn update_broker_health(broker: &AvailabilityLog, error: Option<&str>) {
    match error {
        Some(error) => broker.down(&Cause::from(error)),
        None => broker.up(),
    }
}

//! Publishes what is committed: at least once, in order per SKU, soon.
//!
//! One relay leads, others stand by. The leader reads the oldest rows, publishes them all in flight together, and
//! removes those that were confirmed. Within a SKU it goes back to the first that was not: what was published behind
//! a refused event is published again after it, so that a subscriber who takes only the next sequence misses none.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    crash_points::{self, CrashPoint, SeededBug},
    ports::{
        error::{Cause, StoreError, error_text},
        failed_messages::DueRetry,
        outbox::{LeaderSession, Outbox, OutboxRow, PublishOutcome, Publisher, Retention},
    },
};

use super::{availability::AvailabilityLog, backoff::Backoff, throttle::Throttle};

/// How long a standby or an idle leader waits for a hint before it looks itself. A leader that does not look for
/// several times as long is taken for frozen, and replaced.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How often old rows are looked for, unless there are many, or none is kept for as long as this.
const SWEEP_EVERY: Duration = Duration::from_mins(1);
const SWEEP_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// Moves events from the outbox to the broker, and retries back to their queues.
pub struct Relay {
    /// Where they are.
    pub outbox: Arc<dyn Outbox>,
    /// Where they go.
    pub publisher: Arc<dyn Publisher>,
    /// How many are in flight together at most.
    pub max_in_flight: u32,
    /// How long what is done with is remembered; the leader removes the rest.
    pub retention: Retention,
    /// What is told when the database is away.
    pub database: Arc<AvailabilityLog>,
    /// What is told when the broker is away.
    pub broker: Arc<AvailabilityLog>,
}

/// What a round came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CycleResult {
    /// There was nothing to do, and will be nothing for so long unless somebody wakes us.
    Idle(Duration),
    /// Something left.
    Progress,
    /// Nothing that should have left did.
    Stalled,
}

impl Relay {
    /// Leads or stands by until `stop`; then what is in flight is finished and the lead is released.
    pub async fn run(&self, stop: &CancellationToken) {
        let mut delays = Backoff::during_outage();
        while !stop.is_cancelled() {
            match self.outbox.try_lead().await {
                Ok(Some(lead)) => {
                    self.database.up();
                    let begin = Instant::now();
                    self.lead(lead, stop).await;
                    if begin.elapsed() > POLL_INTERVAL {
                        delays = Backoff::during_outage();
                    }
                    pause(delays.next(), stop).await;
                }
                Ok(None) => {
                    self.database.up();
                    self.wait(POLL_INTERVAL, stop).await;
                }
                Err(error) => {
                    self.database.down(&error);
                    pause(delays.next(), stop).await;
                }
            }
        }
    }

    async fn lead(&self, mut lead: Box<dyn LeaderSession>, stop: &CancellationToken) {
        info!("this relay leads");
        let mut delays = Backoff::during_outage();
        let mut course = LeaderState {
            next_sweep: Instant::now(),
            max_in_flight: self.max_in_flight,
            throttle: Throttle::default(),
        };
        while !stop.is_cancelled() {
            match self.round(&mut *lead, &mut course).await {
                Ok(CycleResult::Idle(at_most)) => self.wait(at_most, stop).await,
                Ok(CycleResult::Progress) => delays = Backoff::during_outage(),
                // In a conflict somebody holds a row: the lead is not lost over that.
                Ok(CycleResult::Stalled) | Err(StoreError::Conflict(_)) => pause(delays.next(), stop).await,
                Err(error) => {
                    warn!(error = error_text(&error), "this relay lost the lead");
                    return;
                }
            }
        }
        lead.release().await;
        info!("this relay handed over the lead");
    }

    /// One window of events and one of retries, as far as there are any.
    async fn round(
        &self,
        lead: &mut dyn LeaderSession,
        course: &mut LeaderState,
    ) -> Result<CycleResult, StoreError> {
        let look = lead.pending().await?;
        let mut round = CycleResult::Idle(look.retry_in.map_or(POLL_INTERVAL, |due| due.min(POLL_INTERVAL)));
        if look.events {
            round = match (self.relay_events(lead, course).await?, round) {
                (CycleResult::Idle(until_events), CycleResult::Idle(until_retry)) => {
                    CycleResult::Idle(until_events.min(until_retry))
                }
                (relayed, _) => relayed,
            };
        }
        if look.retry_in == Some(Duration::ZERO) {
            let moved = self.relay_retries(lead).await?;
            round = if moved || round == CycleResult::Progress {
                CycleResult::Progress
            } else {
                CycleResult::Stalled
            };
        }
        if course.next_sweep <= Instant::now() {
            course.next_sweep = Instant::now() + self.purge_expired(lead).await;
        }
        Ok(round)
    }

    /// How long until the next one. One that fails keeps no event waiting: if the session is lost, the next look tells.
    async fn purge_expired(&self, lead: &mut dyn LeaderSession) -> Duration {
        match lead.purge_expired(self.retention).await {
            Ok(true) => SWEEP_AGAIN_AFTER,
            Ok(false) => self.sweep_every(),
            Err(error) => {
                warn!(error = error_text(&error), "old rows were not removed");
                self.sweep_every()
            }
        }
    }

    fn sweep_every(&self) -> Duration {
        let shortest = self.retention.inbox.min(self.retention.failures);
        shortest.clamp(POLL_INTERVAL, SWEEP_EVERY)
    }

    /// What became of one window of events.
    async fn relay_events(
        &self,
        lead: &mut dyn LeaderSession,
        course: &mut LeaderState,
    ) -> Result<CycleResult, StoreError> {
        let now = Instant::now();
        let rows = lead.unpublished(course.max_in_flight, &course.throttle.blocked(now)).await?;
        if rows.is_empty() {
            let next_try = course.throttle.next_try(now).unwrap_or(now + POLL_INTERVAL);
            return Ok(CycleResult::Idle(next_try.saturating_duration_since(now).min(POLL_INTERVAL)));
        }
        let rows = course.throttle.select(rows, course.max_in_flight, now);
        if rows.is_empty() {
            return Ok(CycleResult::Progress); // There may be others behind them, which may go.
        }
        crash_points::here(CrashPoint::RelayClaimed);
        let outcomes = with_heartbeat(lead, self.publisher.publish(&rows)).await?;
        crash_points::here(CrashPoint::RelayConfirmed);
        let done = confirmed_in_order(&rows, &outcomes);
        debug!(published = rows.len(), confirmed = done.ids.len(), "relayed events");
        course.learn(&rows, &outcomes, self.max_in_flight);
        if !crash_points::planted(SeededBug::ForgetToRemove) {
            lead.remove(&done.ids, done.unroutable).await?;
        }
        crash_points::here(CrashPoint::RelayRemoved);
        let alone = match done.suspect.filter(|_| rows.len() > 1) {
            Some(suspect) => self.try_alone(lead, &rows[suspect]).await?,
            None => self.park(lead, &rows, &outcomes).await?,
        };
        // If one event alone was to blame, nothing is wrong with the broker.
        self.update_broker_health(if alone { &[] } else { &outcomes });
        // What is refused waits for its own time, and nothing else waits with it.
        let refused = outcomes.iter().any(|outcome| matches!(outcome, PublishOutcome::Nacked(_)));
        Ok(if alone || refused || !done.ids.is_empty() {
            CycleResult::Progress
        } else {
            CycleResult::Stalled
        })
    }

    /// One event may have closed the channel under all those behind it: alone it shows whether it is the one. True if
    /// it is out of the way, published or set aside.
    async fn try_alone(&self, lead: &mut dyn LeaderSession, row: &OutboxRow) -> Result<bool, StoreError> {
        let alone = std::slice::from_ref(row);
        let outcomes = with_heartbeat(lead, self.publisher.publish(alone)).await?;
        let done = confirmed_in_order(alone, &outcomes);
        lead.remove(&done.ids, done.unroutable).await?;
        Ok(self.park(lead, alone, &outcomes).await? || !done.ids.is_empty())
    }

    /// Sets aside what the broker will never take; true if there was any.
    async fn park(
        &self,
        lead: &mut dyn LeaderSession,
        rows: &[OutboxRow],
        outcomes: &[PublishOutcome],
    ) -> Result<bool, StoreError> {
        let mut any = false;
        for (row, outcome) in rows.iter().zip(outcomes) {
            if let PublishOutcome::Rejected(reason) = outcome {
                warn!(
                    outbox_id = row.id,
                    sku = row.sku,
                    reason,
                    "an event was set aside; see `allocation outbox`"
                );
                lead.park(row.id, reason).await?;
                any = true;
            }
        }
        Ok(any)
    }

    /// Whether any retry left, or was found to be one that cannot leave now.
    async fn relay_retries(&self, lead: &mut dyn LeaderSession) -> Result<bool, StoreError> {
        let due = lead.due_retries(self.max_in_flight).await?;
        if !due.is_empty() {
            crash_points::here(CrashPoint::RetryClaimed);
        }
        let outcomes = with_heartbeat(lead, self.publisher.publish_retries(&due)).await?;
        if !due.is_empty() {
            crash_points::here(CrashPoint::RetryConfirmed);
        }
        let moved = self.settle_retries(lead, &due, &outcomes).await?;
        let suspect =
            due.iter().zip(&outcomes).find(|(_, outcome)| matches!(outcome, PublishOutcome::Unknown(_)));
        let mut alone = false;
        if let Some((retry, _)) = suspect.filter(|_| due.len() > 1) {
            let retry = std::slice::from_ref(retry);
            let outcomes = with_heartbeat(lead, self.publisher.publish_retries(retry)).await?;
            alone = self.settle_retries(lead, retry, &outcomes).await?;
        }
        // If one retry alone was to blame, nothing is wrong with the broker.
        self.update_broker_health(if alone { &[] } else { &outcomes });
        Ok(moved || alone)
    }

    async fn settle_retries(
        &self,
        lead: &mut dyn LeaderSession,
        due: &[DueRetry],
        outcomes: &[PublishOutcome],
    ) -> Result<bool, StoreError> {
        let (mut confirmed, mut homeless, mut nacked) = (Vec::new(), Vec::new(), Vec::new());
        for (retry, outcome) in due.iter().zip(outcomes) {
            match outcome {
                PublishOutcome::Confirmed => confirmed.push(retry),
                PublishOutcome::Unroutable => homeless.push(retry),
                PublishOutcome::Nacked(_) => nacked.push(retry),
                PublishOutcome::Rejected(reason) => {
                    warn!(
                        id = retry.id,
                        reason, "a retry cannot be published; see `allocation dead-letters`"
                    );
                    lead.reject(retry, reason).await?;
                }
                PublishOutcome::Unknown(_) => {}
            }
        }
        for (held, reason) in [(homeless, "there is no such queue"), (nacked, "its queue is full")] {
            if !held.is_empty() {
                warn!(
                    count = held.len(),
                    reason, "retries wait; see `allocation dead-letters list --status retrying`"
                );
                lead.defer(&held, reason).await?;
            }
        }
        debug!(published = due.len(), confirmed = confirmed.len(), "relayed retries");
        lead.retries_published(&confirmed).await?;
        if !confirmed.is_empty() {
            crash_points::here(CrashPoint::RetryMarked);
        }
        Ok(outcomes.iter().any(|outcome| !matches!(outcome, PublishOutcome::Unknown(_))))
    }

    fn update_broker_health(&self, outcomes: &[PublishOutcome]) {
        match outcomes.iter().find_map(broker_error) {
            Some(trouble) => self.broker.down(&Cause::from(trouble)),
            None => self.broker.up(),
        }
    }

    async fn wait(&self, at_most: Duration, stop: &CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            _ = tokio::time::timeout(at_most, self.outbox.wait_for_wakeup()) => {}
        }
    }
}

/// What a leader keeps in mind from round to round.
struct LeaderState {
    next_sweep: Instant,
    /// How many events go together: fewer while one of them breaks the channel, so that it is soon found.
    max_in_flight: u32,
    /// Which events are refused.
    throttle: Throttle,
}

impl LeaderState {
    fn learn(&mut self, rows: &[OutboxRow], outcomes: &[PublishOutcome], max_in_flight: u32) {
        let broken = outcomes.iter().any(|outcome| matches!(outcome, PublishOutcome::Unknown(_)));
        self.max_in_flight = if broken {
            (self.max_in_flight / 2).max(1)
        } else {
            self.max_in_flight.saturating_mul(2).min(max_in_flight)
        };
        self.throttle.learn(rows, outcomes, max_in_flight, Instant::now());
    }
}

/// Shows the lead's session alive while the broker is waited for. If the session is lost, so is the right to publish,
/// and the publication is dropped.
async fn with_heartbeat<T>(
    lead: &mut dyn LeaderSession,
    publication: impl Future<Output = T>,
) -> Result<T, StoreError> {
    let mut publication = std::pin::pin!(publication);
    loop {
        match tokio::time::timeout(POLL_INTERVAL, &mut publication).await {
            Ok(outcome) => return Ok(outcome),
            Err(_) => lead.pending().await.map(drop)?,
        }
    }
}

/// What may be forgotten of a window.
#[derive(Debug, Default, PartialEq, Eq)]
struct ConfirmedPrefix {
    ids: Vec<i64>,
    /// How many of them no queue wanted.
    unroutable: i64,
    /// The first row whose fate is unknown and before which nothing of its SKU is: it may go next, alone.
    suspect: Option<usize>,
}

/// Of each SKU, the rows before the first that was not confirmed.
fn confirmed_in_order(rows: &[OutboxRow], outcomes: &[PublishOutcome]) -> ConfirmedPrefix {
    let mut held = HashSet::new();
    let mut done = ConfirmedPrefix::default();
    for (place, (row, outcome)) in rows.iter().zip(outcomes).enumerate() {
        if !matches!(outcome, PublishOutcome::Confirmed | PublishOutcome::Unroutable) {
            if held.insert(&row.sku)
                && done.suspect.is_none()
                && matches!(outcome, PublishOutcome::Unknown(_))
            {
                done.suspect = Some(place);
            }
        } else if !held.contains(&row.sku) {
            done.ids.push(row.id);
            done.unroutable += i64::from(*outcome == PublishOutcome::Unroutable);
        }
    }
    done
}

fn broker_error(outcome: &PublishOutcome) -> Option<&str> {
    match outcome {
        PublishOutcome::Unknown(reason) => Some(reason),
        PublishOutcome::Confirmed
        | PublishOutcome::Unroutable
        | PublishOutcome::Nacked(_)
        | PublishOutcome::Rejected(_) => None,
    }
}

async fn pause(delay: Option<Duration>, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(delay.unwrap_or(POLL_INTERVAL)) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn row(id: i64, sku: &str) -> OutboxRow {
        OutboxRow {
            id,
            event_id: Uuid::nil(),
            name: "allocated".into(),
            sku: sku.into(),
            sequence: id,
            body: String::new(),
            causation_id: String::new(),
            correlation_id: String::new(),
            traceparent: None,
            committed_at: 0,
        }
    }

    #[test]
    fn an_event_behind_a_refused_one_is_not_tried_alone() {
        let rows = [row(1, "a"), row(2, "a"), row(3, "b")];
        let unknown = || PublishOutcome::Unknown("cut off".into());
        let outcomes = [PublishOutcome::Nacked("full".into()), unknown(), unknown()];
        assert_eq!(confirmed_in_order(&rows, &outcomes).suspect, Some(2));
        assert_eq!(confirmed_in_order(&rows[..2], &outcomes[..2]).suspect, None);
    }

    #[test]
    fn the_window_shrinks_until_the_culprit_is_found_and_grows_again() {
        let mut course =
            LeaderState { next_sweep: Instant::now(), max_in_flight: 8, throttle: Throttle::default() };
        course.learn(&[row(1, "a")], &[PublishOutcome::Unknown("cut off".into())], 8);
        assert_eq!(course.max_in_flight, 4);
        course.learn(&[row(1, "a")], &[PublishOutcome::Confirmed], 8);
        course.learn(&[row(2, "a")], &[PublishOutcome::Confirmed], 8);
        assert_eq!(course.max_in_flight, 8);
    }

    #[test]
    fn behind_a_refused_event_its_own_sku_waits_and_no_other() {
        let rows = [row(1, "a"), row(2, "b"), row(3, "a"), row(4, "b"), row(5, "c")];
        let nacked = PublishOutcome::Nacked("full".into());
        let outcomes = [
            PublishOutcome::Confirmed,
            nacked,
            PublishOutcome::Confirmed,
            PublishOutcome::Confirmed,
            PublishOutcome::Unroutable,
        ];
        assert_eq!(
            confirmed_in_order(&rows, &outcomes),
            ConfirmedPrefix { ids: vec![1, 3, 5], unroutable: 1, suspect: None }
        );
    }
}

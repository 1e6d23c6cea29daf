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
    crash_points::{self, CrashPoint, PlantedBug},
    ports::{
        ledger::DueRetry,
        outbox::{Lead, Outbox, OutboxRow, Published, Publisher, Retention},
        store::StoreError,
    },
};

use super::{delays::Delays, outage::Outage, throttle::Throttle};

/// How long a standby or an idle leader waits for a hint before it looks itself. A leader that does not look for
/// several times as long is taken for frozen, and replaced.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(1);
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
    pub window: u32,
    /// How long what is done with is remembered; the leader removes the rest.
    pub retention: Retention,
    /// What is told when the database is away.
    pub database: Arc<Outage>,
    /// What is told when the broker is away.
    pub broker: Arc<Outage>,
}

/// What a round came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// There was nothing to do, and will be nothing for so long unless somebody wakes us.
    Idle(Duration),
    /// Something left.
    Moved,
    /// Nothing that should have left did.
    Stuck,
}

impl Relay {
    /// Leads or stands by until `stop`; then what is in flight is finished and the lead is released.
    pub async fn run(&self, stop: &CancellationToken) {
        let mut delays = Delays::during_outage();
        while !stop.is_cancelled() {
            match self.outbox.lead().await {
                Ok(Some(lead)) => {
                    self.database.ends();
                    let begin = Instant::now();
                    self.lead(lead, stop).await;
                    if begin.elapsed() > LOOK_AT_LEAST_EVERY {
                        delays = Delays::during_outage();
                    }
                    pause(delays.next(), stop).await;
                }
                Ok(None) => {
                    self.database.ends();
                    self.wait(LOOK_AT_LEAST_EVERY, stop).await;
                }
                Err(error) => {
                    self.database.begins(&error);
                    pause(delays.next(), stop).await;
                }
            }
        }
    }

    async fn lead(&self, mut lead: Box<dyn Lead>, stop: &CancellationToken) {
        info!("this relay leads");
        let mut delays = Delays::during_outage();
        let mut course =
            Course { next_sweep: Instant::now(), window: self.window, throttle: Throttle::default() };
        while !stop.is_cancelled() {
            match self.round(&mut *lead, &mut course).await {
                Ok(Round::Idle(at_most)) => self.wait(at_most, stop).await,
                Ok(Round::Moved) => delays = Delays::during_outage(),
                // In a conflict somebody holds a row: the lead is not lost over that.
                Ok(Round::Stuck) | Err(StoreError::Conflict(_)) => pause(delays.next(), stop).await,
                Err(error) => {
                    warn!(%error, "this relay lost the lead");
                    return;
                }
            }
        }
        lead.release().await;
        info!("this relay handed over the lead");
    }

    /// One window of events and one of retries, as far as there are any.
    async fn round(&self, lead: &mut dyn Lead, course: &mut Course) -> Result<Round, StoreError> {
        let look = lead.look().await?;
        let mut round =
            Round::Idle(look.retry_in.map_or(LOOK_AT_LEAST_EVERY, |due| due.min(LOOK_AT_LEAST_EVERY)));
        if look.events {
            round = match (self.relay_events(lead, course).await?, round) {
                (Round::Idle(until_events), Round::Idle(until_retry)) => {
                    Round::Idle(until_events.min(until_retry))
                }
                (relayed, _) => relayed,
            };
        }
        if look.retry_in == Some(Duration::ZERO) {
            let moved = self.relay_retries(lead).await?;
            round = if moved || round == Round::Moved { Round::Moved } else { Round::Stuck };
        }
        if course.next_sweep <= Instant::now() {
            course.next_sweep = Instant::now() + self.sweep(lead).await;
        }
        Ok(round)
    }

    /// How long until the next one. One that fails keeps no event waiting: if the session is lost, the next look tells.
    async fn sweep(&self, lead: &mut dyn Lead) -> Duration {
        match lead.sweep(self.retention).await {
            Ok(true) => SWEEP_AGAIN_AFTER,
            Ok(false) => self.sweep_every(),
            Err(error) => {
                warn!(%error, "old rows were not removed");
                self.sweep_every()
            }
        }
    }

    fn sweep_every(&self) -> Duration {
        let shortest = self.retention.inbox.min(self.retention.failures);
        shortest.clamp(LOOK_AT_LEAST_EVERY, SWEEP_EVERY)
    }

    /// What became of one window of events.
    async fn relay_events(&self, lead: &mut dyn Lead, course: &mut Course) -> Result<Round, StoreError> {
        let now = Instant::now();
        let rows = lead.unpublished(course.window, &course.throttle.blocked(now)).await?;
        if rows.is_empty() {
            let next_try = course.throttle.next_try(now).unwrap_or(now + LOOK_AT_LEAST_EVERY);
            return Ok(Round::Idle(next_try.saturating_duration_since(now).min(LOOK_AT_LEAST_EVERY)));
        }
        let rows = course.throttle.select(rows, course.window, now);
        if rows.is_empty() {
            return Ok(Round::Moved); // There may be others behind them, which may go.
        }
        crash_points::here(CrashPoint::RelayClaimed);
        let outcomes = while_alive(lead, self.publisher.publish(&rows)).await?;
        crash_points::here(CrashPoint::RelayConfirmed);
        let done = confirmed_in_order(&rows, &outcomes);
        debug!(published = rows.len(), confirmed = done.ids.len(), "relayed events");
        course.learn(&rows, &outcomes, self.window);
        if !crash_points::planted(PlantedBug::ForgetToRemove) {
            lead.remove(&done.ids, done.unroutable).await?;
        }
        crash_points::here(CrashPoint::RelayRemoved);
        let alone = match done.suspect.filter(|_| rows.len() > 1) {
            Some(suspect) => self.try_alone(lead, &rows[suspect]).await?,
            None => self.set_aside(lead, &rows, &outcomes).await?,
        };
        // If one event alone was to blame, nothing is wrong with the broker.
        self.note(if alone { &[] } else { &outcomes });
        // What is refused waits for its own time, and nothing else waits with it.
        let refused = outcomes.iter().any(|outcome| matches!(outcome, Published::Nacked(_)));
        Ok(if alone || refused || !done.ids.is_empty() { Round::Moved } else { Round::Stuck })
    }

    /// One event may have closed the channel under all those behind it: alone it shows whether it is the one. True if
    /// it is out of the way, published or set aside.
    async fn try_alone(&self, lead: &mut dyn Lead, row: &OutboxRow) -> Result<bool, StoreError> {
        let alone = std::slice::from_ref(row);
        let outcomes = while_alive(lead, self.publisher.publish(alone)).await?;
        let done = confirmed_in_order(alone, &outcomes);
        lead.remove(&done.ids, done.unroutable).await?;
        Ok(self.set_aside(lead, alone, &outcomes).await? || !done.ids.is_empty())
    }

    /// Sets aside what the broker will never take; true if there was any.
    async fn set_aside(
        &self,
        lead: &mut dyn Lead,
        rows: &[OutboxRow],
        outcomes: &[Published],
    ) -> Result<bool, StoreError> {
        let mut any = false;
        for (row, outcome) in rows.iter().zip(outcomes) {
            if let Published::Rejected(reason) = outcome {
                warn!(
                    outbox_id = row.id,
                    sku = row.sku,
                    reason,
                    "an event was set aside; see `allocation outbox`"
                );
                lead.set_aside(row.id, reason).await?;
                any = true;
            }
        }
        Ok(any)
    }

    /// Whether any retry left, or was found to be one that cannot leave now.
    async fn relay_retries(&self, lead: &mut dyn Lead) -> Result<bool, StoreError> {
        let due = lead.due_retries(self.window).await?;
        if !due.is_empty() {
            crash_points::here(CrashPoint::RetryClaimed);
        }
        let outcomes = while_alive(lead, self.publisher.publish_retries(&due)).await?;
        if !due.is_empty() {
            crash_points::here(CrashPoint::RetryConfirmed);
        }
        let moved = self.settle_retries(lead, &due, &outcomes).await?;
        let suspect = due.iter().zip(&outcomes).find(|(_, outcome)| matches!(outcome, Published::Unknown(_)));
        let mut alone = false;
        if let Some((retry, _)) = suspect.filter(|_| due.len() > 1) {
            let retry = std::slice::from_ref(retry);
            let outcomes = while_alive(lead, self.publisher.publish_retries(retry)).await?;
            alone = self.settle_retries(lead, retry, &outcomes).await?;
        }
        // If one retry alone was to blame, nothing is wrong with the broker.
        self.note(if alone { &[] } else { &outcomes });
        Ok(moved || alone)
    }

    async fn settle_retries(
        &self,
        lead: &mut dyn Lead,
        due: &[DueRetry],
        outcomes: &[Published],
    ) -> Result<bool, StoreError> {
        let (mut confirmed, mut homeless, mut nacked) = (Vec::new(), Vec::new(), Vec::new());
        for (retry, outcome) in due.iter().zip(outcomes) {
            match outcome {
                Published::Confirmed => confirmed.push(retry),
                Published::Unroutable => homeless.push(retry),
                Published::Nacked(_) => nacked.push(retry),
                Published::Rejected(reason) => {
                    warn!(
                        id = retry.id,
                        reason, "a retry cannot be published; see `allocation dead-letters`"
                    );
                    lead.refuse_retry(retry, reason).await?;
                }
                Published::Unknown(_) => {}
            }
        }
        for (held, reason) in [(homeless, "there is no such queue"), (nacked, "its queue is full")] {
            if !held.is_empty() {
                warn!(
                    count = held.len(),
                    reason, "retries wait; see `allocation dead-letters list --status retrying`"
                );
                lead.hold_retries(&held, reason).await?;
            }
        }
        debug!(published = due.len(), confirmed = confirmed.len(), "relayed retries");
        lead.retries_published(&confirmed).await?;
        if !confirmed.is_empty() {
            crash_points::here(CrashPoint::RetryMarked);
        }
        Ok(outcomes.iter().any(|outcome| !matches!(outcome, Published::Unknown(_))))
    }

    fn note(&self, outcomes: &[Published]) {
        match outcomes.iter().find_map(trouble) {
            Some(trouble) => self.broker.begins(&trouble),
            None => self.broker.ends(),
        }
    }

    async fn wait(&self, at_most: Duration, stop: &CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            _ = tokio::time::timeout(at_most, self.outbox.woken()) => {}
        }
    }
}

/// What a leader keeps in mind from round to round.
struct Course {
    next_sweep: Instant,
    /// How many events go together: fewer while one of them breaks the channel, so that it is soon found.
    window: u32,
    /// Which events are refused.
    throttle: Throttle,
}

impl Course {
    fn learn(&mut self, rows: &[OutboxRow], outcomes: &[Published], window: u32) {
        let broken = outcomes.iter().any(|outcome| matches!(outcome, Published::Unknown(_)));
        self.window =
            if broken { (self.window / 2).max(1) } else { self.window.saturating_mul(2).min(window) };
        self.throttle.learn(rows, outcomes, window, Instant::now());
    }
}

/// Shows the lead's session alive while the broker is waited for. If the session is lost, so is the right to publish,
/// and the publication is dropped.
async fn while_alive<T>(lead: &mut dyn Lead, publication: impl Future<Output = T>) -> Result<T, StoreError> {
    let mut publication = std::pin::pin!(publication);
    loop {
        match tokio::time::timeout(LOOK_AT_LEAST_EVERY, &mut publication).await {
            Ok(outcome) => return Ok(outcome),
            Err(_) => lead.look().await.map(drop)?,
        }
    }
}

/// What may be forgotten of a window.
#[derive(Debug, Default, PartialEq, Eq)]
struct Done {
    ids: Vec<i64>,
    /// How many of them no queue wanted.
    unroutable: i64,
    /// The first row whose fate is unknown and before which nothing of its SKU is: it may go next, alone.
    suspect: Option<usize>,
}

/// Of each SKU, the rows before the first that was not confirmed.
fn confirmed_in_order(rows: &[OutboxRow], outcomes: &[Published]) -> Done {
    let mut held = HashSet::new();
    let mut done = Done::default();
    for (place, (row, outcome)) in rows.iter().zip(outcomes).enumerate() {
        if !matches!(outcome, Published::Confirmed | Published::Unroutable) {
            if held.insert(&row.sku) && done.suspect.is_none() && matches!(outcome, Published::Unknown(_)) {
                done.suspect = Some(place);
            }
        } else if !held.contains(&row.sku) {
            done.ids.push(row.id);
            done.unroutable += i64::from(*outcome == Published::Unroutable);
        }
    }
    done
}

fn trouble(outcome: &Published) -> Option<&str> {
    match outcome {
        Published::Unknown(reason) => Some(reason),
        Published::Confirmed | Published::Unroutable | Published::Nacked(_) | Published::Rejected(_) => None,
    }
}

async fn pause(delay: Option<Duration>, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(delay.unwrap_or(LOOK_AT_LEAST_EVERY)) => {}
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
        let unknown = || Published::Unknown("cut off".into());
        let outcomes = [Published::Nacked("full".into()), unknown(), unknown()];
        assert_eq!(confirmed_in_order(&rows, &outcomes).suspect, Some(2));
        assert_eq!(confirmed_in_order(&rows[..2], &outcomes[..2]).suspect, None);
    }

    #[test]
    fn the_window_shrinks_until_the_culprit_is_found_and_grows_again() {
        let mut course = Course { next_sweep: Instant::now(), window: 8, throttle: Throttle::default() };
        course.learn(&[row(1, "a")], &[Published::Unknown("cut off".into())], 8);
        assert_eq!(course.window, 4);
        course.learn(&[row(1, "a")], &[Published::Confirmed], 8);
        course.learn(&[row(2, "a")], &[Published::Confirmed], 8);
        assert_eq!(course.window, 8);
    }

    #[test]
    fn behind_a_refused_event_its_own_sku_waits_and_no_other() {
        let rows = [row(1, "a"), row(2, "b"), row(3, "a"), row(4, "b"), row(5, "c")];
        let nacked = Published::Nacked("full".into());
        let outcomes =
            [Published::Confirmed, nacked, Published::Confirmed, Published::Confirmed, Published::Unroutable];
        assert_eq!(
            confirmed_in_order(&rows, &outcomes),
            Done { ids: vec![1, 3, 5], unroutable: 1, suspect: None }
        );
    }
}

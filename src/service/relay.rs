//! Publishes what is committed: at least once, in order per SKU, soon.
//!
//! One relay leads, others stand by. The leader reads the oldest rows, publishes them all in flight together, and
//! removes those that were confirmed. Within a SKU it goes back to the first that was not: what was published behind
//! a refused event is published again after it, so that a subscriber who takes only the next sequence misses none.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::ports::{
    ledger::DueRetry,
    outbox::{Lead, Outbox, OutboxRow, Published, Publisher, Retention},
    store::StoreError,
};

use super::{delays::Delays, outage::Outage};

/// How long a standby or an idle leader waits for a hint before it looks itself. A leader that does not look for
/// several times as long is taken for frozen, and replaced.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(1);
/// How often old rows are looked for, unless there are many.
const SWEEP_EVERY: Duration = Duration::from_mins(1);

/// How long the events of a product wait after one of them was refused.
const REST: Duration = Duration::from_millis(500);

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
        let mut course = Course { next_sweep: Instant::now(), resting: HashMap::new() };
        while !stop.is_cancelled() {
            match self.round(&mut *lead, &mut course).await {
                Ok(Round::Idle(at_most)) => self.wait(at_most, stop).await,
                Ok(Round::Moved) => delays = Delays::during_outage(),
                Ok(Round::Stuck) => pause(delays.next(), stop).await,
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
        if course.next_sweep <= Instant::now() {
            let more = lead.sweep(self.retention).await?;
            course.next_sweep = Instant::now() + if more { LOOK_AT_LEAST_EVERY } else { SWEEP_EVERY };
        }
        let look = lead.look().await?;
        let mut moved = None;
        if look.events {
            moved = Some(self.relay_events(lead, course).await?);
        }
        if look.retry_in == Some(Duration::ZERO) {
            moved = Some(self.relay_retries(lead).await? || moved == Some(true));
        }
        Ok(match moved {
            Some(true) => Round::Moved,
            Some(false) => Round::Stuck,
            None => {
                Round::Idle(look.retry_in.map_or(LOOK_AT_LEAST_EVERY, |due| due.min(LOOK_AT_LEAST_EVERY)))
            }
        })
    }

    /// Whether any event left, or was found to be the one that stops others.
    async fn relay_events(&self, lead: &mut dyn Lead, course: &mut Course) -> Result<bool, StoreError> {
        let rows = course.one_of_each_in_trouble(lead.unpublished(self.window, &course.at_rest()).await?);
        let outcomes = while_alive(lead, self.publisher.publish(&rows)).await?;
        course.learn(&rows, &outcomes);
        let done = confirmed_in_order(&rows, &outcomes);
        debug!(published = rows.len(), confirmed = done.ids.len(), "relayed events");
        lead.remove(&done.ids, done.unroutable).await?;
        let suspect =
            rows.iter().zip(&outcomes).find(|(_, outcome)| matches!(outcome, Published::Unknown(_)));
        let set_aside = match suspect {
            Some((row, _)) if rows.len() > 1 => self.try_alone(lead, row).await?,
            _ => self.set_aside(lead, &rows, &outcomes).await?,
        };
        self.note(outcomes.iter().filter(|_| !set_aside));
        Ok(set_aside || !done.ids.is_empty())
    }

    /// One event may have closed the channel under all those behind it: alone it shows whether it is the one.
    async fn try_alone(&self, lead: &mut dyn Lead, row: &OutboxRow) -> Result<bool, StoreError> {
        let alone = std::slice::from_ref(row);
        let outcomes = while_alive(lead, self.publisher.publish(alone)).await?;
        let done = confirmed_in_order(alone, &outcomes);
        lead.remove(&done.ids, done.unroutable).await?;
        self.set_aside(lead, alone, &outcomes).await
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

    /// Whether any retry left, or was found to be one that cannot.
    async fn relay_retries(&self, lead: &mut dyn Lead) -> Result<bool, StoreError> {
        let due = lead.due_retries(self.window).await?;
        let outcomes = while_alive(lead, self.publisher.publish_retries(&due)).await?;
        self.note(outcomes.iter());
        let mut moved = self.settle_retries(lead, &due, &outcomes).await?;
        let suspect = due.iter().zip(&outcomes).find(|(_, outcome)| matches!(outcome, Published::Unknown(_)));
        if let Some((retry, _)) = suspect.filter(|_| due.len() > 1) {
            let alone = std::slice::from_ref(retry);
            let outcomes = while_alive(lead, self.publisher.publish_retries(alone)).await?;
            moved |= self.settle_retries(lead, alone, &outcomes).await?;
        }
        Ok(moved)
    }

    async fn settle_retries(
        &self,
        lead: &mut dyn Lead,
        due: &[DueRetry],
        outcomes: &[Published],
    ) -> Result<bool, StoreError> {
        let mut confirmed = Vec::with_capacity(due.len());
        let mut refused = false;
        for (retry, outcome) in due.iter().zip(outcomes) {
            match outcome {
                Published::Confirmed => confirmed.push(retry),
                Published::Unroutable => lead.hold_retry(retry, "there is no such queue").await?,
                Published::Nacked(reason) => lead.hold_retry(retry, reason).await?,
                Published::Rejected(reason) => {
                    warn!(
                        id = retry.id,
                        reason, "a retry cannot be published; see `allocation dead-letters`"
                    );
                    lead.refuse_retry(retry, reason).await?;
                    refused = true;
                }
                Published::Unknown(_) => {}
            }
        }
        debug!(published = due.len(), confirmed = confirmed.len(), "relayed retries");
        lead.retries_published(&confirmed).await?;
        Ok(refused || !confirmed.is_empty())
    }

    fn note<'a>(&self, mut outcomes: impl Iterator<Item = &'a Published>) {
        match outcomes.find_map(trouble) {
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
    /// Products of which an event was refused, and when it is to be tried again.
    resting: HashMap<String, Instant>,
}

impl Course {
    /// Products that are left alone for now, so that theirs do not fill the window.
    fn at_rest(&self) -> Vec<String> {
        let now = Instant::now();
        self.resting.iter().filter(|(_, until)| **until > now).map(|(sku, _)| sku.clone()).collect()
    }

    /// Of a product in trouble only the first event goes, until it is through: what is behind it cannot overtake.
    fn one_of_each_in_trouble(&self, mut rows: Vec<OutboxRow>) -> Vec<OutboxRow> {
        let mut gone = HashSet::new();
        rows.retain(|row| !self.resting.contains_key(&row.sku) || gone.insert(row.sku.clone()));
        rows
    }

    fn learn(&mut self, rows: &[OutboxRow], outcomes: &[Published]) {
        for (row, outcome) in rows.iter().zip(outcomes) {
            match outcome {
                Published::Nacked(_) => drop(self.resting.insert(row.sku.clone(), Instant::now() + REST)),
                Published::Confirmed | Published::Unroutable
                    if self.resting.get(&row.sku).is_some_and(|until| *until <= Instant::now()) =>
                {
                    self.resting.remove(&row.sku);
                }
                _ => {}
            }
        }
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
}

/// Of each SKU, the rows before the first that was not confirmed.
fn confirmed_in_order(rows: &[OutboxRow], outcomes: &[Published]) -> Done {
    let mut held = HashSet::new();
    let mut done = Done::default();
    for (row, outcome) in rows.iter().zip(outcomes) {
        if !matches!(outcome, Published::Confirmed | Published::Unroutable) {
            held.insert(&row.sku);
        } else if !held.contains(&row.sku) {
            done.ids.push(row.id);
            done.unroutable += i64::from(*outcome == Published::Unroutable);
        }
    }
    done
}

fn trouble(outcome: &Published) -> Option<&str> {
    match outcome {
        Published::Nacked(reason) | Published::Rejected(reason) | Published::Unknown(reason) => Some(reason),
        Published::Confirmed | Published::Unroutable => None,
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
    fn of_a_product_in_trouble_one_event_goes_at_a_time() {
        let mut course = Course { next_sweep: Instant::now(), resting: HashMap::new() };
        let rows = vec![row(1, "a"), row(2, "b"), row(3, "a"), row(4, "b")];
        let nacked = || Published::Nacked("full".into());
        course.learn(&rows, &[nacked(), Published::Confirmed, nacked(), Published::Confirmed]);
        assert_eq!(course.at_rest(), ["a"]);
        let ids: Vec<_> = course.one_of_each_in_trouble(rows.clone()).iter().map(|row| row.id).collect();
        assert_eq!(ids, [1, 2, 4]);
        course.resting.insert("a".into(), Instant::now());
        assert!(course.at_rest().is_empty());
        course.learn(&rows[..1], &[Published::Confirmed]);
        assert_eq!(course.one_of_each_in_trouble(rows).len(), 4);
    }

    #[test]
    fn behind_a_refused_event_its_own_sku_waits_and_no_other() {
        let rows = [row(1, "a"), row(2, "b"), row(3, "a"), row(4, "b"), row(5, "c")];
        let nacked = Published::Nacked("full".into());
        let outcomes =
            [Published::Confirmed, nacked, Published::Confirmed, Published::Confirmed, Published::Unroutable];
        assert_eq!(confirmed_in_order(&rows, &outcomes), Done { ids: vec![1, 3, 5], unroutable: 1 });
    }
}

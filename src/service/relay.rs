//! Publishes what is committed: at least once, in order per SKU, soon.
//!
//! One relay leads, others stand by. The leader reads the oldest rows, publishes them all in flight together, and
//! removes those that were confirmed. Within a SKU it goes back to the first that was not: what was published behind
//! a refused event is published again after it, so that a subscriber who takes only the next sequence misses none.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::ports::{
    outbox::{Lead, Outbox, OutboxRow, Published, Publisher, Retention},
    store::StoreError,
};

use super::{delays::Delays, outage::Outage};

/// How long a standby or an idle leader waits for a hint before it looks itself.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(1);

/// How often old rows are looked for, unless there are many.
const SWEEP_EVERY: Duration = Duration::from_mins(1);

/// Moves events from the outbox to the broker.
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

impl Relay {
    /// Leads or stands by until `stop`; then what is in flight is finished and the lead is released.
    pub async fn run(&self, stop: &CancellationToken) {
        let mut delays = Delays::during_outage();
        while !stop.is_cancelled() {
            match self.outbox.lead().await {
                Ok(Some(lead)) => {
                    self.database.ends();
                    delays = Delays::during_outage();
                    self.lead(lead, stop).await;
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
        let mut next_sweep = Instant::now();
        while !stop.is_cancelled() {
            match self.round(&mut *lead, &mut next_sweep).await {
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
    async fn round(&self, lead: &mut dyn Lead, next_sweep: &mut Instant) -> Result<Round, StoreError> {
        if *next_sweep <= Instant::now() {
            let more = lead.sweep(self.retention).await?;
            *next_sweep = Instant::now() + if more { LOOK_AT_LEAST_EVERY } else { SWEEP_EVERY };
        }
        let look = lead.look().await?;
        let mut moved = None;
        if look.events {
            moved = Some(self.relay_events(lead).await?);
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

    /// Whether any event left.
    async fn relay_events(&self, lead: &mut dyn Lead) -> Result<bool, StoreError> {
        let rows = lead.unpublished(self.window).await?;
        let outcomes = self.publisher.publish(&rows).await;
        self.note(&outcomes);
        let confirmed = confirmed_in_order(&rows, &outcomes);
        debug!(published = rows.len(), confirmed = confirmed.len(), "relayed events");
        lead.remove(&confirmed).await?;
        Ok(!confirmed.is_empty())
    }

    /// Whether any retry left. One that no queue took stays due.
    async fn relay_retries(&self, lead: &mut dyn Lead) -> Result<bool, StoreError> {
        let due = lead.due_retries(self.window).await?;
        let outcomes = self.publisher.publish_retries(&due).await;
        self.note(&outcomes);
        let confirmed: Vec<_> = due
            .iter()
            .zip(&outcomes)
            .filter(|(_, outcome)| **outcome == Published::Confirmed)
            .map(|(due, _)| due)
            .collect();
        debug!(published = due.len(), confirmed = confirmed.len(), "relayed retries");
        lead.retries_published(&confirmed).await?;
        Ok(!confirmed.is_empty())
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

enum Round {
    /// Nothing to do, for so long at most unless somebody wakes us.
    Idle(Duration),
    Moved,
    Stuck,
}

/// The rows that may be forgotten: of each SKU, those before the first that was not confirmed.
fn confirmed_in_order(rows: &[OutboxRow], outcomes: &[Published]) -> Vec<i64> {
    let mut held = HashSet::new();
    let mut confirmed = Vec::with_capacity(rows.len());
    for (row, outcome) in rows.iter().zip(outcomes) {
        let done = matches!(outcome, Published::Confirmed | Published::Unroutable);
        if done && !held.contains(&row.sku) {
            confirmed.push(row.id);
        } else {
            held.insert(&row.sku);
        }
    }
    confirmed
}

fn trouble(outcome: &Published) -> Option<&str> {
    match outcome {
        Published::Refused(reason) | Published::Unknown(reason) => Some(reason),
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
    fn behind_a_refused_event_its_own_sku_waits_and_no_other() {
        let rows = [row(1, "a"), row(2, "b"), row(3, "a"), row(4, "b"), row(5, "c")];
        let refused = Published::Refused("full".into());
        let outcomes = [
            Published::Confirmed,
            refused,
            Published::Confirmed,
            Published::Confirmed,
            Published::Unroutable,
        ];
        assert_eq!(confirmed_in_order(&rows, &outcomes), [1, 3, 5]);
    }
}

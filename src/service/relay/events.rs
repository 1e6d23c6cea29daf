//! Publishes committed events.

use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use crate::{
    domain::{ConfirmedPrefix, OutboxRow, PublishOutcome, PublishReport, PublishWindow, ThrottleChange},
    ports::{
        answered::Answered,
        error::StoreError,
        observer::{EventsPublished, Observer, PublishedEvent, Report, Stopwatch},
        outbox::{EventFeed, Publisher},
    },
    service::availability::AvailabilityLog,
};

use super::cycle::{CycleResult, POLL_INTERVAL, pair, update_broker_health, with_heartbeat};

/// One leader's publication of events.
pub(super) struct EventRelay<'a> {
    publisher: &'a dyn Publisher,
    broker: &'a AvailabilityLog,
    observer: &'a dyn Observer,
    window: PublishWindow,
    /// The nacked event names as they are recorded; none at first, because the former leader may have recorded others.
    recorded: Option<Vec<String>>,
}

type Published = Answered<OutboxRow, PublishOutcome>;

impl<'a> EventRelay<'a> {
    pub(super) fn new(
        publisher: &'a dyn Publisher,
        broker: &'a AvailabilityLog,
        observer: &'a dyn Observer,
        max_in_flight: u32,
    ) -> Self {
        Self { publisher, broker, observer, window: PublishWindow::new(max_in_flight), recorded: None }
    }

    /// Publishes one window of events.
    pub(super) async fn relay(&mut self, feed: &mut dyn EventFeed) -> Result<CycleResult, StoreError> {
        let now = now();
        let rows = feed.unpublished(self.window.size(), &self.window.blocked_skus(now)).await?;
        if rows.is_empty() {
            return Ok(CycleResult::Idle(self.until_next_try(now)));
        }
        let rows = self.window.select(rows, now);
        if rows.is_empty() {
            return Ok(CycleResult::Progress); // Their SKUs are blocked now: the next read excludes them.
        }
        match self.publish(feed, rows).await? {
            Some(published) => self.settle(feed, &published).await,
            None => Ok(CycleResult::Stalled),
        }
    }

    /// Records for operators which events the broker nacks; none if no event is pending.
    pub(super) async fn record_nacked(
        &mut self,
        feed: &mut dyn EventFeed,
        pending: bool,
    ) -> Result<(), StoreError> {
        let nacked = if pending { self.window.nacked_names() } else { Vec::new() };
        if self.recorded.as_ref() != Some(&nacked) {
            feed.record_nacked(&nacked).await?;
            self.recorded = Some(nacked);
        }
        Ok(())
    }

    fn until_next_try(&self, now: Instant) -> Duration {
        let next_try = self.window.next_try(now).unwrap_or(now + POLL_INTERVAL);
        next_try.saturating_duration_since(now).min(POLL_INTERVAL)
    }

    async fn publish(
        &self,
        feed: &mut dyn EventFeed,
        rows: Vec<OutboxRow>,
    ) -> Result<Option<Published>, StoreError> {
        let begin = Stopwatch::start();
        let outcomes = with_heartbeat(feed, self.publisher.publish(&rows)).await?;
        let published = pair(rows, outcomes);
        if let Some(published) = &published {
            self.report(begin, published);
        }
        Ok(published)
    }

    fn report(&self, begin: Stopwatch, published: &Published) {
        if self.observer.is_active() {
            let period = begin.period();
            let events: Vec<_> =
                published.iter().map(|(row, outcome)| published_event(row, outcome)).collect();
            self.observer.observe(&Report::EventsPublished(&EventsPublished { period, events: &events }));
        }
    }

    async fn settle(
        &mut self,
        feed: &mut dyn EventFeed,
        published: &Published,
    ) -> Result<CycleResult, StoreError> {
        let PublishReport { confirmed, throttle_changes } =
            self.window.learn(published.iter().as_slice(), now());
        debug!(published = published.len(), confirmed = confirmed.ids.len(), "relayed events");
        throttle_changes.iter().for_each(log_throttle_change);
        feed.remove(&confirmed.ids, &confirmed.unroutable).await?;
        let isolated = match confirmed.suspect {
            Some(suspect) => self.publish_alone(feed, suspect).await?,
            None => park_rejected(feed, published).await?,
        };
        // A single event that closes the channel is no outage of the broker.
        let broker_error = published.iter().find_map(|(_, outcome)| outcome.broker_error());
        update_broker_health(self.broker, broker_error.filter(|_| !isolated));
        // Nacked events wait for their next try, and delay no others.
        let nacked = published.iter().any(|(_, outcome)| matches!(outcome, PublishOutcome::Nacked(_)));
        Ok(if isolated || nacked || !confirmed.ids.is_empty() {
            CycleResult::Progress
        } else {
            CycleResult::Stalled
        })
    }

    /// Finds out whether this event closed the channel for those behind it. True if it blocks them no longer, because it
    /// is published or parked.
    async fn publish_alone(&self, feed: &mut dyn EventFeed, row: OutboxRow) -> Result<bool, StoreError> {
        let Some(published) = self.publish(feed, vec![row]).await? else { return Ok(false) };
        let confirmed = ConfirmedPrefix::of(published.iter().as_slice());
        feed.remove(&confirmed.ids, &confirmed.unroutable).await?;
        Ok(park_rejected(feed, &published).await? || !confirmed.ids.is_empty())
    }
}

fn published_event<'a>(row: &'a OutboxRow, outcome: &PublishOutcome) -> PublishedEvent<'a> {
    PublishedEvent {
        event_id: row.event_id,
        name: &row.name,
        sku: &row.sku,
        sequence: row.sequence,
        committed_at: row.committed_at.into(),
        correlation_id: &row.correlation_id,
        traceparent: row.traceparent.as_deref(),
        outcome: outcome.into(),
    }
}

/// The clock that tests can pause.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn log_throttle_change(change: &ThrottleChange) {
    match change {
        ThrottleChange::Started { event, reason } => {
            warn!(
                event,
                reason, "events nacked, a subscriber's queue is full; throttling events of this type"
            );
        }
        ThrottleChange::Ended { event } => info!(event, "events confirmed again, throttling ended"),
    }
}

/// Parks the events that the broker rejected; true if there was one.
async fn park_rejected(feed: &mut dyn EventFeed, published: &Published) -> Result<bool, StoreError> {
    let mut any = false;
    for (row, outcome) in published {
        if let PublishOutcome::Rejected(reason) = outcome {
            warn!(
                outbox_id = row.id,
                sku = row.sku,
                reason,
                "event parked: the broker rejected it; run `allocation outbox list`"
            );
            feed.park(row.id, reason).await?;
            any = true;
        }
    }
    Ok(any)
}

//! Leadership, and the cycle of the leader.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    ports::{
        error::{StoreError, error_text},
        observer::{LeadershipChange, Observer, Report},
        outbox::{LeaderSession, Outbox, Publisher, Retention},
    },
    service::{activity::Activity, availability::AvailabilityLog, backoff::Backoff},
};

use super::{
    cycle::{CycleResult, POLL_INTERVAL},
    events::EventRelay,
    gauges::Gauges,
    retries::RetryRelay,
};

/// The pause between two purges if all expired rows were removed. It is shorter if the retention is.
const PURGE_INTERVAL: Duration = Duration::from_mins(1);
/// How often a relay looks whether the broker blocks its publication.
const BLOCKED_POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The pause if there are more.
const PURGE_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// Publishes events from the outbox, and retries to their queues.
pub struct Relay {
    /// The source of events and retries.
    pub outbox: Arc<dyn Outbox>,
    /// The way to the broker.
    pub publisher: Arc<dyn Publisher>,
    /// The largest number of messages in flight together.
    pub max_in_flight: u32,
    /// The largest number of bytes in the bodies of retries in flight together; a single retry may have more.
    pub max_retry_bytes: usize,
    /// How long rows are kept that are no longer needed.
    pub retention: Retention,
    /// Whether the database is available.
    pub database: Arc<AvailabilityLog>,
    /// Whether the broker is available.
    pub broker: Arc<AvailabilityLog>,
    /// Gets the reports.
    pub observer: Arc<dyn Observer>,
    /// Shows whether the leader makes progress.
    pub activity: Activity,
    /// What is measured while this process leads, if anything is.
    pub gauges: Option<Gauges>,
}

/// What a leader keeps between its cycles.
struct LeaderState<'a> {
    events: EventRelay<'a>,
    retries: RetryRelay<'a>,
    next_purge: Instant,
    /// When the numbers of failed messages are added up again.
    next_addition: Instant,
}

impl Relay {
    /// Runs as leader or standby until `stop`; then the current cycle is finished and leadership released.
    pub async fn run(&self, stop: &CancellationToken) {
        let mut delays = Backoff::during_outage();
        self.observer.observe(&Report::Leadership(LeadershipChange::Standby));
        while !stop.is_cancelled() {
            match self.outbox.try_lead().await {
                Ok(Some(session)) => {
                    self.database.up();
                    let begin = Instant::now();
                    self.lead_observed(session, stop).await;
                    if begin.elapsed() > POLL_INTERVAL {
                        delays = Backoff::during_outage();
                    }
                    pause(delays.next(), stop).await;
                }
                Ok(None) => {
                    self.end_outage().await;
                    self.wait(POLL_INTERVAL, stop).await;
                }
                Err(error) => {
                    self.database.down(&error);
                    pause(delays.next(), stop).await;
                }
            }
        }
    }

    /// A standby only reads: a write must show that the database is available again.
    async fn end_outage(&self) {
        if self.database.is_down() && self.outbox.probe().await.is_ok() {
            self.database.up();
        }
    }

    async fn lead_observed(&self, session: Box<dyn LeaderSession>, stop: &CancellationToken) {
        self.observer.observe(&Report::Leadership(LeadershipChange::Began));
        let mut measuring = self.gauges.iter().map(|gauges| gauges.start(&self.observer)).next();
        self.lead(session, stop).await;
        // What is measured must not be reported after the end of the leadership.
        if let Some(measuring) = &mut measuring {
            measuring.shutdown().await;
        }
        self.observer.observe(&Report::Leadership(LeadershipChange::Ended));
    }

    async fn lead(&self, mut session: Box<dyn LeaderSession>, stop: &CancellationToken) {
        info!("relay became leader");
        let mut delays = Backoff::during_outage();
        let mut state = self.initial_state();
        while !stop.is_cancelled() {
            self.activity.begin();
            let cycle = tokio::select! {
                cycle = self.cycle(&mut *session, &mut state) => cycle,
                () = self.stopped_while_blocked(stop) => {
                    info!("relay stopped while the broker blocks publishing; unconfirmed events are published again");
                    self.activity.end();
                    return;
                }
            };
            self.activity.end();
            match cycle {
                Ok(CycleResult::Idle(at_most)) => self.wait(at_most, stop).await,
                Ok(CycleResult::Progress) => delays = Backoff::during_outage(),
                // In a conflict another transaction has locked a row: the session is intact.
                Ok(CycleResult::Stalled) | Err(StoreError::Conflict(_) | StoreError::Locked(_)) => {
                    pause(delays.next(), stop).await;
                }
                Err(error) => {
                    warn!(error = error_text(&error), "relay lost leadership");
                    return;
                }
            }
        }
        session.release().await;
        info!("relay released leadership");
    }

    /// Ends when the relay is to stop while the broker blocks publishing: a publication would not end before the alarm does.
    /// Until then a blocked publication counts as one that has just begun.
    async fn stopped_while_blocked(&self, stop: &CancellationToken) {
        loop {
            tokio::time::sleep(BLOCKED_POLL_INTERVAL).await;
            if self.publisher.is_blocked() {
                self.activity.begin();
                if stop.is_cancelled() {
                    return;
                }
            }
        }
    }

    fn initial_state(&self) -> LeaderState<'_> {
        let (publisher, broker, observer) = (&*self.publisher, &*self.broker, &*self.observer);
        LeaderState {
            events: EventRelay::new(publisher, broker, observer, self.max_in_flight),
            retries: RetryRelay::new(publisher, broker, observer, self.max_in_flight, self.max_retry_bytes),
            next_purge: Instant::now(),
            next_addition: Instant::now(),
        }
    }

    /// Publishes one window of events and one of retries, if there are any.
    async fn cycle(
        &self,
        session: &mut dyn LeaderSession,
        state: &mut LeaderState<'_>,
    ) -> Result<CycleResult, StoreError> {
        let pending = session.pending().await?;
        let until_retry = pending.retry_in.map_or(POLL_INTERVAL, |due| due.min(POLL_INTERVAL));
        let mut result = CycleResult::Idle(until_retry);
        if state.next_addition <= Instant::now() {
            state.next_addition = Instant::now() + POLL_INTERVAL;
            if let Err(error) = session.add_up_failed_messages().await {
                warn!(error = error_text(&error), "the numbers of failed messages were not added up");
            }
        }
        state.events.record_nacked(session, pending.events).await?;
        if pending.events {
            result = match state.events.relay(session).await? {
                CycleResult::Idle(until_events) => CycleResult::Idle(until_events.min(until_retry)),
                relayed => relayed,
            };
        }
        if pending.retry_in == Some(Duration::ZERO) {
            let settled = state.retries.relay(session).await?;
            result = if settled || result == CycleResult::Progress {
                CycleResult::Progress
            } else {
                CycleResult::Stalled
            };
        }
        if state.next_purge <= Instant::now() {
            state.next_purge = Instant::now() + self.purge(session).await;
        }
        Ok(result)
    }

    /// Returns the pause until the next purge. An error delays no event: if the session is lost, the next poll fails.
    async fn purge(&self, session: &mut dyn LeaderSession) -> Duration {
        match session.purge(self.retention).await {
            Ok(purge) => {
                self.observer.observe(&Report::Purged(purge.rows));
                if purge.is_incomplete { PURGE_AGAIN_AFTER } else { self.purge_interval() }
            }
            Err(error) => {
                warn!(error = error_text(&error), "expired rows were not removed");
                self.purge_interval()
            }
        }
    }

    fn purge_interval(&self) -> Duration {
        let shortest = self.retention.inbox.min(self.retention.failures);
        shortest.clamp(POLL_INTERVAL, PURGE_INTERVAL)
    }

    async fn wait(&self, at_most: Duration, stop: &CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            _ = tokio::time::timeout(at_most, self.outbox.wait_for_wakeup()) => {}
        }
    }
}

async fn pause(delay: Option<Duration>, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(delay.unwrap_or(POLL_INTERVAL)) => {}
    }
}

//! A publisher with scripted outcomes, and a relay that uses it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use allocation::{
    domain::{OutboxRow, PublishOutcome},
    ports::{
        failed_messages::DueRetry,
        observer::NoObserver,
        outbox::{Publisher, Retention},
    },
    service::{activity::Activity, availability::AvailabilityLog, relay::Relay},
};
use async_trait::async_trait;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ScriptedOutbox;

/// The deadline for a shutdown of the relay.
const STOPS_WITHIN: Duration = Duration::from_mins(1);

/// The outcomes of publishing messages with these ids together; `None` if the broker never answers.
type Outcomes = dyn Fn(&[i64]) -> Option<Vec<PublishOutcome>> + Send + Sync;

struct Publication {
    time: Instant,
    ids: Vec<i64>,
    during_outage: bool,
}

/// Clones share one publisher.
#[derive(Clone)]
pub(crate) struct ScriptedPublisher {
    outcomes: Arc<Outcomes>,
    publications: Arc<Mutex<Vec<Publication>>>,
    /// The broker's availability as the relay reports it.
    availability: Arc<Mutex<Option<Arc<AvailabilityLog>>>>,
    dropped: Arc<Mutex<usize>>,
}

impl ScriptedPublisher {
    pub(crate) fn new(
        outcomes: impl Fn(&[i64]) -> Option<Vec<PublishOutcome>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            outcomes: Arc::new(outcomes),
            publications: Arc::default(),
            availability: Arc::default(),
            dropped: Arc::default(),
        }
    }

    pub(crate) fn confirms() -> Self {
        Self::new(|ids| Some(vec![PublishOutcome::Confirmed; ids.len()]))
    }

    /// One message closes the channel: the outcomes of the messages in flight with it are unknown.
    pub(crate) fn closes_the_channel_at(rejected: i64) -> Self {
        Self::new(move |ids| {
            Some(match ids {
                [id] if *id == rejected => vec![PublishOutcome::Rejected("too large".into())],
                ids if ids.contains(&rejected) => {
                    vec![PublishOutcome::Unknown("channel closed".into()); ids.len()]
                }
                ids => vec![PublishOutcome::Confirmed; ids.len()],
            })
        })
    }

    /// The ids that were published together, in order.
    pub(crate) fn published(&self) -> Vec<Vec<i64>> {
        self.publications.lock().unwrap().iter().map(|publication| publication.ids.clone()).collect()
    }

    /// The times of the publications.
    pub(crate) fn times(&self) -> Vec<Instant> {
        self.publications.lock().unwrap().iter().map(|publication| publication.time).collect()
    }

    /// Whether the relay reported the broker as unavailable at the time of any publication.
    pub(crate) fn saw_an_outage(&self) -> bool {
        self.publications.lock().unwrap().iter().any(|publication| publication.during_outage)
    }

    /// The number of publications that were dropped before they had an outcome.
    pub(crate) fn dropped(&self) -> usize {
        *self.dropped.lock().unwrap()
    }

    async fn publish_ids(&self, ids: Vec<i64>) -> Vec<PublishOutcome> {
        let mut counter = DropCounter(Some(self.dropped.clone()));
        let during_outage = self.availability.lock().unwrap().as_ref().is_some_and(|broker| broker.is_down());
        let publication = Publication { time: Instant::now(), ids: ids.clone(), during_outage };
        self.publications.lock().unwrap().push(publication);
        let outcomes = (self.outcomes)(&ids);
        let Some(outcomes) = outcomes else { std::future::pending().await };
        counter.0 = None;
        outcomes
    }
}

struct DropCounter(Option<Arc<Mutex<usize>>>);

impl Drop for DropCounter {
    fn drop(&mut self) {
        if let Some(count) = &self.0 {
            *count.lock().unwrap() += 1;
        }
    }
}

#[async_trait]
impl Publisher for ScriptedPublisher {
    async fn publish(&self, rows: &[OutboxRow]) -> Vec<PublishOutcome> {
        self.publish_ids(rows.iter().map(|row| row.id).collect()).await
    }

    async fn publish_retries(&self, retries: &[DueRetry]) -> Vec<PublishOutcome> {
        self.publish_ids(retries.iter().map(|retry| retry.id).collect()).await
    }
}

/// A publisher that loses the first outcome of every publication, as a defect would.
pub(crate) struct LosesOutcomes(pub(crate) ScriptedPublisher);

#[async_trait]
impl Publisher for LosesOutcomes {
    async fn publish(&self, rows: &[OutboxRow]) -> Vec<PublishOutcome> {
        self.0.publish(rows).await.split_off(1)
    }

    async fn publish_retries(&self, retries: &[DueRetry]) -> Vec<PublishOutcome> {
        self.0.publish_retries(retries).await.split_off(1)
    }
}

/// A relay with at most eight messages in flight.
pub(crate) fn relay(outbox: &ScriptedOutbox, publisher: &ScriptedPublisher) -> Relay {
    let broker = Arc::new(AvailabilityLog::of("broker"));
    *publisher.availability.lock().unwrap() = Some(broker.clone());
    Relay {
        outbox: Arc::new(outbox.clone()),
        publisher: Arc::new(publisher.clone()),
        max_retry_bytes: usize::MAX,
        max_in_flight: 8,
        retention: Retention {
            inbox: Duration::from_hours(1),
            failures: Duration::from_hours(1),
            published: Duration::from_hours(1),
        },
        database: Arc::new(AvailabilityLog::of("database")),
        broker,
        observer: Arc::new(NoObserver),
        activity: Activity::default(),
        gauges: None,
    }
}

/// Runs a relay for this time, then stops it.
pub(crate) async fn run_for(relay: &Relay, time: Duration) {
    let stop = CancellationToken::new();
    let stops = async {
        tokio::time::sleep(time).await;
        stop.cancel();
    };
    let runs = tokio::time::timeout(time + STOPS_WITHIN, relay.run(&stop));
    let (stopped, ()) = tokio::join!(runs, stops);
    stopped.expect("the relay stops");
}

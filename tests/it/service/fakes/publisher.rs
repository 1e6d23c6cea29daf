//! A broker that does what a test says, and a relay between it and an outbox.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use allocation::{
    ports::{
        failed_messages::DueRetry,
        outbox::{OutboxRow, PublishOutcome, Publisher, Retention},
    },
    service::{availability::AvailabilityLog, relay::Relay},
};
use async_trait::async_trait;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ScriptedOutbox;

/// A relay that is stopped finishes what is in flight.
const STOPS_WITHIN: Duration = Duration::from_mins(1);

/// What became of each of the publications with these ids; none if the broker never answers.
type Answer = dyn Fn(&[i64]) -> Option<Vec<PublishOutcome>> + Send + Sync;

struct Publication {
    time: Instant,
    ids: Vec<i64>,
    in_an_outage: bool,
}

/// Clones are one publisher.
#[derive(Clone)]
pub(crate) struct ScriptedPublisher {
    answer: Arc<Answer>,
    published: Arc<Mutex<Vec<Publication>>>,
    /// Of the broker, as the relay sees it.
    outage: Arc<Mutex<Option<Arc<AvailabilityLog>>>>,
    given_up: Arc<Mutex<usize>>,
}

impl ScriptedPublisher {
    pub(crate) fn new(
        answer: impl Fn(&[i64]) -> Option<Vec<PublishOutcome>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            answer: Arc::new(answer),
            published: Arc::default(),
            outage: Arc::default(),
            given_up: Arc::default(),
        }
    }

    pub(crate) fn confirms() -> Self {
        Self::new(|ids| Some(vec![PublishOutcome::Confirmed; ids.len()]))
    }

    /// The channel is closed under everything that is in flight beside the culprit.
    pub(crate) fn closes_the_channel_over(culprit: i64) -> Self {
        Self::new(move |ids| {
            Some(match ids {
                [id] if *id == culprit => vec![PublishOutcome::Rejected("too large".into())],
                ids if ids.contains(&culprit) => {
                    vec![PublishOutcome::Unknown("channel closed".into()); ids.len()]
                }
                ids => vec![PublishOutcome::Confirmed; ids.len()],
            })
        })
    }

    /// What was published together, by id.
    pub(crate) fn published(&self) -> Vec<Vec<i64>> {
        self.published.lock().unwrap().iter().map(|publication| publication.ids.clone()).collect()
    }

    /// When something was published.
    pub(crate) fn times(&self) -> Vec<Instant> {
        self.published.lock().unwrap().iter().map(|publication| publication.time).collect()
    }

    /// Whether the relay took the broker for unavailable at the time of any publication.
    pub(crate) fn saw_an_outage(&self) -> bool {
        self.published.lock().unwrap().iter().any(|publication| publication.in_an_outage)
    }

    /// How many publications were dropped before their answer.
    pub(crate) fn given_up(&self) -> usize {
        *self.given_up.lock().unwrap()
    }

    async fn answer(&self, ids: Vec<i64>) -> Vec<PublishOutcome> {
        let mut dropped = CountsDrop(Some(self.given_up.clone()));
        let in_an_outage = self.outage.lock().unwrap().as_ref().is_some_and(|outage| outage.is_down());
        let publication = Publication { time: Instant::now(), ids: ids.clone(), in_an_outage };
        self.published.lock().unwrap().push(publication);
        let answer = (self.answer)(&ids);
        let Some(answer) = answer else { std::future::pending().await };
        dropped.0 = None;
        answer
    }
}

struct CountsDrop(Option<Arc<Mutex<usize>>>);

impl Drop for CountsDrop {
    fn drop(&mut self) {
        if let Some(count) = &self.0 {
            *count.lock().unwrap() += 1;
        }
    }
}

#[async_trait]
impl Publisher for ScriptedPublisher {
    async fn publish(&self, rows: &[OutboxRow]) -> Vec<PublishOutcome> {
        self.answer(rows.iter().map(|row| row.id).collect()).await
    }

    async fn publish_retries(&self, retries: &[DueRetry]) -> Vec<PublishOutcome> {
        self.answer(retries.iter().map(|retry| retry.id).collect()).await
    }
}

/// A relay that takes eight at once.
pub(crate) fn relay(outbox: &ScriptedOutbox, publisher: &ScriptedPublisher) -> Relay {
    let broker = Arc::new(AvailabilityLog::of("broker"));
    *publisher.outage.lock().unwrap() = Some(broker.clone());
    Relay {
        outbox: Arc::new(outbox.clone()),
        publisher: Arc::new(publisher.clone()),
        max_in_flight: 8,
        retention: Retention { inbox: Duration::from_hours(1), failures: Duration::from_hours(1) },
        database: Arc::new(AvailabilityLog::of("database")),
        broker,
    }
}

/// Runs a relay for so long.
pub(crate) async fn run_for(relay: &Relay, time: Duration) {
    let stop = CancellationToken::new();
    let stops = async {
        tokio::time::sleep(time).await;
        stop.cancel();
    };
    let runs = tokio::time::timeout(time + STOPS_WITHIN, relay.run(&stop));
    let (stopped, ()) = tokio::join!(runs, stops);
    stopped.expect("a relay that is to stop stops");
}

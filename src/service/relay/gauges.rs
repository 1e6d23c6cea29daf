//! What the leader measures: the backlog of the database and the depths of the queues. Each has a task and a connection of its
//! own, so that no publication waits for them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;
use tracing::warn;

use crate::ports::{
    error::error_text,
    observer::{BacklogReader, Observer, QueueReader, Report},
};

/// How many times the database is measured while the queues are measured once. It is less often if that is slow.
const BACKLOGS: u32 = 3;
/// The part of the time during which the database works on a measurement is at most one in so many.
const MAX_SHARE: u32 = 20;

/// Measures while this process leads.
#[derive(Clone)]
pub struct Gauges {
    /// Measures the database.
    pub backlog: Arc<dyn BacklogReader>,
    /// Measures the broker.
    pub queues: Arc<dyn QueueReader>,
    /// The time between two measurements of the queues.
    pub interval: Duration,
}

impl Gauges {
    /// Measures until the tasks are dropped.
    pub(super) fn start(&self, observer: &Arc<dyn Observer>) -> JoinSet<()> {
        let mut measuring = JoinSet::new();
        let (gauges, reports) = (self.clone(), observer.clone());
        measuring.spawn(async move { gauges.measure_backlog(&*reports).await });
        let (gauges, reports) = (self.clone(), observer.clone());
        measuring.spawn(async move { gauges.measure_queues(&*reports).await });
        measuring
    }

    async fn measure_backlog(&self, observer: &dyn Observer) {
        loop {
            let begin = Instant::now();
            match self.backlog.backlog().await {
                Ok(backlog) => observer.observe(&Report::BacklogGauged(Some(&backlog))),
                Err(error) => {
                    warn!(error = error_text(&error), "the backlog was not measured: its gauges are missing");
                    observer.observe(&Report::BacklogGauged(None));
                }
            }
            tokio::time::sleep((self.interval / BACKLOGS).max(begin.elapsed() * MAX_SHARE)).await;
        }
    }

    async fn measure_queues(&self, observer: &dyn Observer) {
        loop {
            match self.queues.queues().await {
                Ok(states) => observer.observe(&Report::QueuesGauged(&states)),
                Err(error) => {
                    warn!(
                        error = error_text(&error),
                        "the queues were not measured: their gauges are missing"
                    );
                    observer.observe(&Report::QueuesGauged(&[]));
                }
            }
            tokio::time::sleep(self.interval).await;
        }
    }
}

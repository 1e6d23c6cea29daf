//! Exports the spans that wait, in a task of its own.

use std::time::Duration;

use hyper::body::Bytes;
use opentelemetry_proto::tonic::{collector::trace::v1::ExportTraceServiceRequest, trace::v1::Span};
use prost::Message as _;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::ports::observer::SpanOutcome;

use super::{
    collector::{Collector, ExportError},
    queue::SpanOutcomes,
    resource::Instance,
};

/// The largest number of spans in one request.
const MAX_BATCH: usize = 512;
/// How long the first span of a request waits for others.
const COLLECT_FOR: Duration = Duration::from_secs(1);
/// How often a request is tried.
const TRIES: u32 = 5;
const INITIAL_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// How long a process that stops waits until the remaining spans are exported.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Exports spans to a collector.
pub struct SpanExporter {
    instance: Instance,
    outcomes: SpanOutcomes,
    waiting: mpsc::Receiver<Span>,
    /// Spans that are taken from the queue for the next request.
    taken: Vec<Span>,
    /// The request that is tried at present.
    batch: Option<Batch>,
    connection: ConnectionState,
}

/// A request.
struct Batch {
    body: Bytes,
    spans: usize,
}

impl SpanExporter {
    pub(super) fn new(instance: Instance, outcomes: SpanOutcomes, waiting: mpsc::Receiver<Span>) -> Self {
        let (taken, batch, connection) = (Vec::new(), None, ConnectionState::default());
        Self { instance, outcomes, waiting, taken, batch, connection }
    }

    /// Exports spans until `stop`, and then those that remain, for up to one second.
    pub async fn run(mut self, collector: &Collector, stop: &CancellationToken) {
        stop.run_until_cancelled(self.export_all(collector)).await;
        self.waiting.close();
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, self.flush(collector)).await;
        let left = self.batch.map_or(0, |batch| batch.spans) + self.taken.len() + self.waiting.len();
        if left > 0 {
            warn!(spans = left, "spans were dropped: the collector did not take them before the stop");
            self.outcomes.report(SpanOutcome::Dropped, left);
        }
    }

    /// When this is cancelled, the spans that are not exported are still there.
    async fn export_all(&mut self, collector: &Collector) {
        loop {
            self.take().await;
            self.begin_request();
            let exported = self.export(collector).await;
            self.settle(exported);
        }
    }

    /// Takes the spans of one request.
    async fn take(&mut self) {
        self.waiting.recv_many(&mut self.taken, MAX_BATCH).await;
        let full_at = Instant::now() + COLLECT_FOR;
        while let missing @ 1.. = MAX_BATCH - self.taken.len() {
            let more = self.waiting.recv_many(&mut self.taken, missing);
            if matches!(tokio::time::timeout_at(full_at, more).await, Ok(0) | Err(_)) {
                return;
            }
        }
    }

    fn begin_request(&mut self) {
        let spans = self.taken.len();
        let resource_spans = vec![self.instance.spans(std::mem::take(&mut self.taken))];
        let body = ExportTraceServiceRequest { resource_spans }.encode_to_vec().into();
        self.batch = Some(Batch { body, spans });
    }

    /// Tries a few times. Meanwhile spans wait in the queue, and are dropped if that is full.
    async fn export(&mut self, collector: &Collector) -> Result<usize, ExportError> {
        let mut tries = 1;
        loop {
            match self.try_once(collector).await {
                Ok(rejected) => {
                    self.connection.up();
                    return Ok(rejected);
                }
                Err(error) => {
                    let delay = self.connection.down(&error);
                    if !error.is_temporary || tries == TRIES {
                        return Err(error);
                    }
                    tokio::time::sleep(delay).await;
                }
            }
            tries += 1;
        }
    }

    async fn try_once(&self, collector: &Collector) -> Result<usize, ExportError> {
        match &self.batch {
            Some(batch) => collector.export(batch.body.clone()).await,
            None => Ok(0),
        }
    }

    /// Exports what waits, each request once.
    async fn flush(&mut self, collector: &Collector) {
        loop {
            if self.batch.is_none() {
                while self.taken.len() < MAX_BATCH
                    && let Ok(span) = self.waiting.try_recv()
                {
                    self.taken.push(span);
                }
                if self.taken.is_empty() {
                    return;
                }
                self.begin_request();
            }
            let exported = self.try_once(collector).await;
            if exported.is_err() {
                return;
            }
            self.settle(exported);
        }
    }

    /// Ends the request, and reports what became of its spans.
    fn settle(&mut self, exported: Result<usize, ExportError>) {
        let spans = self.batch.take().map_or(0, |batch| batch.spans);
        let failed = exported.map_or(spans, |rejected| rejected.min(spans));
        self.outcomes.report(SpanOutcome::Exported, spans - failed);
        self.outcomes.report(SpanOutcome::Failed, failed);
    }
}

/// Whether the collector takes spans. Each change is logged once.
#[derive(Default)]
struct ConnectionState {
    delay: Option<Duration>,
}

impl ConnectionState {
    fn up(&mut self) {
        if self.delay.take().is_some() {
            info!("spans are exported again");
        }
    }

    /// Returns the delay before the next try.
    fn down(&mut self, error: &ExportError) -> Duration {
        if self.delay.is_none() {
            warn!(error = error.text, "spans are not exported (traces.endpoint); commands are not affected");
        }
        let delay = self.delay.map_or(INITIAL_DELAY, |last| (last * 2).min(LONGEST_DELAY));
        self.delay = Some(delay);
        delay
    }
}

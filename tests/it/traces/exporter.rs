//! The exporter in the process of the test.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use allocation::{
    adapters::otel::{Collector, Instance, SpanExporter, Tracer, TracerOptions},
    ports::observer::{Listener, Observer, Period, Report, RequestReport, SpanOutcome},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::harness::{CollectorReply, DRAINS_WITHIN, TraceCollector, wait_for};

/// The number of spans that may wait.
const ROOM: usize = 2048;

/// Counts what becomes of spans.
#[derive(Default)]
struct Counts {
    exported: AtomicUsize,
    dropped: AtomicUsize,
    failed: AtomicUsize,
}

impl Counts {
    /// Exported, dropped and failed.
    fn all(&self) -> [usize; 3] {
        [&self.exported, &self.dropped, &self.failed].map(|count| count.load(Ordering::Relaxed))
    }
}

impl Observer for Counts {
    fn observe(&self, report: &Report<'_>) {
        let Report::Spans(outcome, spans) = report else { return };
        let count = match outcome {
            SpanOutcome::Exported => &self.exported,
            SpanOutcome::Dropped => &self.dropped,
            SpanOutcome::Failed => &self.failed,
        };
        count.fetch_add(*spans, Ordering::Relaxed);
    }
}

fn tracer() -> (Tracer, SpanExporter, Arc<Counts>) {
    let counts = Arc::new(Counts::default());
    let options = TracerOptions {
        ratio: 1.0,
        keep_failures: true,
        broker_host: None,
        instance: Instance { namespace: "test".into(), host: "host".into(), pid: 7 },
    };
    let (tracer, exporter) = Tracer::new(options, counts.clone());
    (tracer, exporter, counts)
}

async fn export(exporter: SpanExporter, endpoint: &str, stop: &CancellationToken) {
    exporter.run(&Collector::new(endpoint).expect("the address is one"), stop).await;
}

/// Makes so many spans.
fn record(tracer: &Tracer, spans: usize) {
    for _ in 0..spans {
        tracer.observe(&Report::Request(&RequestReport {
            listener: Listener::Api,
            route: "/allocate",
            method: "POST",
            status: 202,
            period: Period { begin: SystemTime::UNIX_EPOCH, duration: Duration::from_millis(1) },
            traceparent: None,
            span: tracer.begin_span(None, false),
        }));
    }
}

async fn wait_for_counts(counts: &Counts, expected: [usize; 3]) {
    wait_for("spans are settled", DRAINS_WITHIN, &expected, async || counts.all()).await;
}

/// The exporter cannot run in between: nothing waits for it.
#[tokio::test]
async fn spans_for_which_there_is_no_room_are_dropped_and_counted() {
    let collector = TraceCollector::start(CollectorReply::Accept).await;
    let (tracer, exporter, counts) = tracer();
    record(&tracer, ROOM + 100);
    assert_eq!(counts.all(), [0, 100, 0]);
    let stop = CancellationToken::new();
    let run = export(exporter, &collector.endpoint, &stop);
    let stopped = async {
        wait_for_counts(&counts, [ROOM, 100, 0]).await;
        stop.cancel();
    };
    tokio::join!(run, stopped);
    assert_eq!((collector.spans().len(), collector.requests()), (ROOM, 4));
}

#[tokio::test]
async fn spans_that_the_collector_rejects_have_failed() {
    let collector = TraceCollector::start(CollectorReply::Reject(3)).await;
    let (tracer, exporter, counts) = tracer();
    let stop = CancellationToken::new();
    let rejected = async {
        record(&tracer, 10);
        wait_for_counts(&counts, [7, 0, 3]).await;
        collector.set_reply(CollectorReply::Status(400));
        record(&tracer, 5);
        wait_for_counts(&counts, [7, 0, 8]).await;
        stop.cancel();
    };
    tokio::join!(export(exporter, &collector.endpoint, &stop), rejected);
}

#[tokio::test]
async fn a_collector_that_is_unavailable_for_a_moment_gets_every_span() {
    let collector = TraceCollector::start(CollectorReply::Status(503)).await;
    let (tracer, exporter, counts) = tracer();
    let stop = CancellationToken::new();
    let returned = async {
        record(&tracer, 10);
        wait_for("a request is refused", DRAINS_WITHIN, &1, async || collector.requests()).await;
        collector.set_reply(CollectorReply::Accept);
        wait_for_counts(&counts, [10, 0, 0]).await;
        stop.cancel();
    };
    tokio::join!(export(exporter, &collector.endpoint, &stop), returned);
    assert_eq!((collector.spans().len(), collector.requests()), (10, 2));
}

#[tokio::test]
async fn a_stop_exports_what_waits() {
    let collector = TraceCollector::start(CollectorReply::Accept).await;
    let (tracer, exporter, counts) = tracer();
    record(&tracer, 1000);
    let stop = CancellationToken::new();
    stop.cancel();
    export(exporter, &collector.endpoint, &stop).await;
    assert_eq!((counts.all(), collector.spans().len()), ([1000, 0, 0], 1000));
    record(&tracer, 1);
    assert_eq!(counts.all(), [1000, 1, 0], "after the end there is no room");
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_at_most_one_second() {
    // It accepts connections and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let (tracer, exporter, counts) = tracer();
    record(&tracer, 600);
    let stop = CancellationToken::new();
    stop.cancel();
    let begin = tokio::time::Instant::now();
    export(exporter, &format!("http://{address}"), &stop).await;
    assert!(begin.elapsed() <= Duration::from_millis(1100), "{:?}", begin.elapsed());
    assert_eq!(counts.all(), [0, 600, 0]);
}

//! Metrics of the process, its subscriptions and its requests.

use prometheus_client::metrics::{counter::Counter, gauge::Gauge, histogram::Histogram};

use crate::ports::{
    observer::{
        QueueActivity, RequestReport, SchemaReport, SpanOutcome, SubscriptionChange, SubscriptionReport,
    },
    queue::{QueueKind, QueueName},
};

use super::catalog::{Catalog, SecondsGauge, Series};

/// A query takes about a millisecond, a command some milliseconds; the limit is `api.timeout`.
fn request_seconds() -> Histogram {
    Histogram::new([0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0])
}

pub(super) struct ProcessMetrics {
    schema_version: Series<Gauge, 1>,
    messages_in_progress: Series<Gauge, 1>,
    partition_busy: Series<SecondsGauge, 1>,
    subscribed: Series<Gauge, 2>,
    subscriptions_lost: Series<Counter, 2>,
    requests: Series<Counter, 4>,
    request_seconds: Series<Histogram, 2>,
    spans: Series<Counter, 1>,
}

impl ProcessMetrics {
    pub(super) fn new(catalog: &mut Catalog) -> Self {
        let build =
            catalog.gauge("build_info", ["version"], "Always 1; the label is the version of the program");
        build.of([env!("CARGO_PKG_VERSION")]).set(1);
        let metrics = Self {
            schema_version: catalog.gauge(
                "schema_version",
                ["kind"],
                "Version of the schema: found in the database, expected by the program",
            ),
            messages_in_progress: catalog.gauge(
                "messages_in_progress",
                ["queue"],
                "Deliveries that this process has and has not acknowledged, with those of the dead-letter queue",
            ),
            partition_busy: catalog.seconds_gauge(
                "partition_busy_seconds",
                ["queue"],
                "How long the longest busy partition has been busy with its messages",
            ),
            subscribed: catalog.gauge(
                "subscribed",
                ["queue", "queue_kind"],
                "1 while this process has its subscription to the queue, 0 while it has none",
            ),
            subscriptions_lost: catalog.counter(
                "subscriptions_lost",
                ["queue", "queue_kind"],
                "Subscriptions that ended and were not stopped",
            ),
            requests: catalog.counter(
                "http_requests",
                ["listener", "route", "method", "class"],
                "Answered HTTP requests",
            ),
            request_seconds: catalog.histogram(
                "http_request_seconds",
                ["listener", "route"],
                "Duration of an HTTP request",
                request_seconds,
            ),
            spans: catalog.counter("spans", ["outcome"], "Spans of traces by what became of them"),
        };
        metrics.preset();
        metrics
    }

    fn preset(&self) {
        for queue in QueueName::ALL {
            for kind in QueueKind::ALL {
                self.subscriptions_lost.of([queue.as_str(), kind.as_str()]).inc_by(0);
            }
        }
        for outcome in SpanOutcome::ALL {
            self.spans(*outcome, 0);
        }
    }

    pub(super) fn spans(&self, outcome: SpanOutcome, spans: usize) {
        self.spans.of([outcome.as_str()]).inc_by(spans as u64);
    }

    pub(super) fn schema(&self, report: SchemaReport) {
        self.schema_version.of(["found"]).set(report.found.unwrap_or(0));
        self.schema_version.of(["expected"]).set(report.expected);
    }

    pub(super) fn activity(&self, activity: &[QueueActivity]) {
        for QueueActivity { queue, unacknowledged, busy_for } in activity {
            let messages = i64::try_from(*unacknowledged).unwrap_or(i64::MAX);
            self.messages_in_progress.of([queue.as_str()]).set(messages);
            self.partition_busy.of([queue.as_str()]).set(busy_for.as_secs_f64());
        }
    }

    pub(super) fn subscription(&self, report: SubscriptionReport) {
        let labels = [report.queue.as_str(), report.queue_kind.as_str()];
        self.subscribed.of(labels).set(i64::from(report.change == SubscriptionChange::Began));
        if report.change == SubscriptionChange::Lost {
            self.subscriptions_lost.of(labels).inc();
        }
    }

    pub(super) fn request(&self, report: &RequestReport<'_>) {
        let (listener, route) = (report.listener.as_str(), report.route);
        self.requests.of([listener, route, report.method, class(report.status)]).inc();
        self.request_seconds.of([listener, route]).observe(report.period.duration.as_secs_f64());
    }
}

fn class(status: u16) -> &'static str {
    match status {
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        500..600 => "5xx",
        _ => "other",
    }
}

//! Turns reports into spans.

use std::{sync::Arc, time::Duration};

use opentelemetry_proto::tonic::trace::v1::Span;

use crate::ports::{
    observer::{Observer, Report, SpanDecision},
    trace::TraceContext,
};

use super::{
    exporter::SpanExporter,
    queue::{self, SpanOutcomes, SpanSender},
    resource::Instance,
    sampler::{self, Sampler},
};

/// Work that took longer is recorded like work that has failed.
pub(super) const SLOW: Duration = Duration::from_secs(1);

/// How traces are made.
pub struct TracerOptions {
    /// The part of the traces without a sender's decision that is recorded, from 0 to 1.
    pub ratio: f64,
    /// Whether failed and slow work is recorded in any case.
    pub keep_failures: bool,
    /// The name of the broker's host, if it has one node.
    pub broker_host: Option<String>,
    /// The process.
    pub instance: Instance,
}

/// Turns reports into spans, and passes them on for export.
pub struct Tracer {
    pub(super) options: TracerOptions,
    pub(super) spans: SpanSender,
}

impl Tracer {
    /// A tracer, and the exporter of its spans. What becomes of the spans is reported to `outcomes`.
    #[must_use]
    pub fn new(options: TracerOptions, outcomes: Arc<dyn Observer>) -> (Self, SpanExporter) {
        let outcomes = SpanOutcomes(outcomes);
        let (spans, waiting) = queue::queue(&outcomes);
        let exporter = SpanExporter::new(options.instance.clone(), outcomes, waiting);
        (Self { options, spans }, exporter)
    }

    pub(super) fn add(&self, span: impl FnOnce() -> Span) {
        self.spans.add(span);
    }

    /// A name with the namespace, as the broker has it.
    pub(super) fn named(&self, name: &str) -> String {
        format!("{}.{name}", self.options.instance.namespace)
    }
}

impl Observer for Tracer {
    fn observe(&self, report: &Report<'_>) {
        match report {
            Report::UnitOfWork(report) => self.unit_of_work(report),
            Report::Failure(report) => self.failure(report),
            Report::EventsPublished(report) => self.events_published(report),
            Report::RetriesPublished(report) => self.retries_published(report),
            Report::Request(report) => self.request(report),
            _ => {}
        }
    }

    fn begin_span(&self, parent: Option<TraceContext>, is_root: bool) -> SpanDecision {
        match (Sampler { ratio: self.options.ratio }).begin(parent, is_root) {
            Some(context) => SpanDecision::Recorded(context),
            None if self.options.keep_failures => SpanDecision::IfFailed(sampler::root()),
            None => SpanDecision::NotRecorded,
        }
    }
}

//! The spans that wait for their export.

use std::sync::Arc;

use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::sync::mpsc;

use crate::ports::observer::{Observer, Report, SpanOutcome};

/// The number of spans that may wait. Further ones are dropped and counted.
pub(super) const MAX_WAITING: usize = 2048;

/// The end of the queue that spans are added to. Clones add to the same queue.
#[derive(Clone)]
pub(super) struct SpanSender {
    spans: mpsc::Sender<Span>,
    outcomes: SpanOutcomes,
}

/// Reports what becomes of spans.
#[derive(Clone)]
pub(super) struct SpanOutcomes(pub(super) Arc<dyn Observer>);

impl SpanOutcomes {
    pub(super) fn report(&self, outcome: SpanOutcome, spans: usize) {
        if spans > 0 {
            self.0.observe(&Report::Spans(outcome, spans));
        }
    }
}

/// A queue, and the reports of what becomes of its spans.
pub(super) fn queue(outcomes: &SpanOutcomes) -> (SpanSender, mpsc::Receiver<Span>) {
    let (sender, spans) = mpsc::channel(MAX_WAITING);
    (SpanSender { spans: sender, outcomes: outcomes.clone() }, spans)
}

impl SpanSender {
    /// Adds a span, which is built only if there is room for it. Never waits.
    pub(super) fn add(&self, span: impl FnOnce() -> Span) {
        match self.spans.try_reserve() {
            Ok(room) => room.send(span()),
            Err(_) => self.outcomes.report(SpanOutcome::Dropped, 1),
        }
    }
}

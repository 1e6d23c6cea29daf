//! Spans of messages and of the units of work that handled them.

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

use crate::ports::{
    observer::{
        ErrorClass, FailureReport, MessageOutcome, MessageReport, Period, Source, UnitOfWorkReport,
        UnitOfWorkResult,
    },
    queue::QueueKind,
    trace::TraceContext,
};

use super::{
    names, sampler,
    span::{SpanBuilder, link},
    tracer::{SLOW, Tracer},
};

/// Where a message came from.
struct Origin {
    /// The name of its queue, as the broker has it.
    queue: String,
    source: Source,
}

impl Tracer {
    pub(super) fn unit_of_work(&self, report: &UnitOfWorkReport<'_>) {
        let handled = Period { begin: report.begin, duration: report.duration() };
        let spans: Vec<_> = report
            .messages
            .iter()
            .filter_map(|message| Some((message, context(message, handled)?)))
            .collect();
        if spans.is_empty() {
            return;
        }
        let unit = sampler::root();
        let origin = Origin { queue: self.named(report.queue.as_str()), source: report.source };
        for (message, context) in &spans {
            // Without an outcome the message is handled again, and has one span for all of it.
            if message.outcome.is_some() {
                self.message(&origin, message, *context, handled, Some(unit));
            }
        }
        self.unit(report, unit, &spans);
        self.phases(report, unit);
    }

    pub(super) fn failure(&self, report: &FailureReport<'_>) {
        if let Some(context) = context(&report.message, report.period) {
            let dead_letters = if report.queue_kind == QueueKind::DeadLetter { ".dlq" } else { "" };
            let queue = format!("{}{dead_letters}", self.named(report.queue.as_str()));
            let origin = Origin { queue, source: report.source };
            self.message(&origin, &report.message, context, report.period, None);
        }
    }

    /// A span from the arrival of a message to the end of its handling.
    fn message(
        &self,
        origin: &Origin,
        message: &MessageReport<'_>,
        context: TraceContext,
        handled: Period,
        unit: Option<TraceContext>,
    ) {
        self.add(|| {
            let begin = handled.end().checked_sub(message.held_for).unwrap_or(handled.begin);
            let held = Period { begin, duration: message.held_for };
            let mut span =
                SpanBuilder::new(format!("process {}", origin.queue), SpanKind::Consumer, context, held)
                    .follows(message.traceparent.and_then(TraceContext::parse))
                    .linked_to(unit)
                    .with(names::OPERATION_NAME, names::PROCESS)
                    .with(names::OPERATION_TYPE, names::PROCESS)
                    .with(names::DESTINATION, origin.queue.as_str())
                    .with_some(names::MESSAGE_ID, message.message_id)
                    .with_some(names::CONVERSATION_ID, message.correlation_id)
                    .with(names::BODY_SIZE, message.body_bytes)
                    .with(names::SOURCE, origin.source.as_str())
                    .with_some(names::OUTCOME, message.outcome.map(MessageOutcome::as_str))
                    .with_some(names::FAILED_MESSAGE_ID, message.failed_message_id)
                    .with_some(names::ERROR_GROUP, message.error_group)
                    .failed(error_type(message));
            if origin.source == Source::Queue {
                span = self.of_broker(span).with(names::ROUTING_KEY, message.message_type);
            }
            if message.attempts > 0 {
                span = span.with(names::ATTEMPTS, i64::from(message.attempts));
            }
            if message.generation > 0 {
                span = span.with(names::GENERATION, message.generation);
            }
            if message.redelivered {
                span = span.with(names::REDELIVERED, true);
            }
            span.build()
        });
    }

    /// The span of a unit of work, in a trace of its own: its messages may belong to many.
    fn unit(
        &self,
        report: &UnitOfWorkReport<'_>,
        context: TraceContext,
        messages: &[(&MessageReport<'_>, TraceContext)],
    ) {
        let period = Period { begin: report.begin, duration: report.duration() };
        let error = match report.result {
            UnitOfWorkResult::Committed => None,
            UnitOfWorkResult::Failed(class) => Some(class.as_str()),
        };
        self.add(|| {
            SpanBuilder::new("unit of work".into(), SpanKind::Internal, context, period)
                .link(messages.iter().map(|(_, message)| link(*message, Vec::new())))
                .with(names::DESTINATION, self.named(report.queue.as_str()).as_str())
                .with(names::MESSAGE_COUNT, report.messages.len())
                .with(names::SOURCE, report.source.as_str())
                .failed(error)
                .build()
        });
    }

    fn phases(&self, report: &UnitOfWorkReport<'_>, unit: TraceContext) {
        let mut begin = report.begin;
        for (name, duration) in [("load", report.load), ("handle", report.handle), ("commit", report.commit)]
        {
            // A unit of work that failed has not reached every phase.
            if !duration.is_zero() {
                let period = Period { begin, duration };
                self.add(|| {
                    SpanBuilder::new(name.into(), SpanKind::Internal, sampler::child(unit), period)
                        .child_of(unit)
                        .build()
                });
            }
            begin += duration;
        }
    }

    pub(super) fn of_broker(&self, span: SpanBuilder) -> SpanBuilder {
        span.with(names::SYSTEM, names::RABBITMQ)
            .with_some(names::SERVER_ADDRESS, self.options.broker_host.as_deref())
    }
}

/// The context of a message's span, if it is recorded. Slow is what the work took: a message may have waited in this process
/// for other messages, or for a digest.
fn context(message: &MessageReport<'_>, handled: Period) -> Option<TraceContext> {
    let is_kept = match message.outcome {
        Some(MessageOutcome::Retrying | MessageOutcome::Dead(_)) => true,
        Some(_) => handled.duration > SLOW,
        None => false,
    };
    if is_kept { message.span.of_failure() } else { message.span.recorded() }
}

/// The reason of a dead letter, or the class of another error.
fn error_type(message: &MessageReport<'_>) -> Option<&'static str> {
    match message.outcome {
        Some(MessageOutcome::Dead(reason)) => Some(reason.as_str()),
        _ => message.error.map(ErrorClass::as_str),
    }
}

//! The spans of reports.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::sync::mpsc::Receiver;

use crate::{
    domain::Reason,
    ports::{
        observer::{
            ErrorClass, MessageOutcome, MessageReport, NoObserver, Observer, Report, Source, SpanDecision,
            UnitOfWorkReport, UnitOfWorkResult,
        },
        queue::QueueName,
        trace::TraceContext,
    },
};

use super::{
    queue::{SpanOutcomes, queue},
    resource::Instance,
    span::MAX_LINKS,
    tracer::{Tracer, TracerOptions},
};

const CONTEXT: TraceContext = TraceContext { trace_id: 7, span_id: 8, is_sampled: true };

fn tracer(ratio: f64, keep_failures: bool) -> (Tracer, Receiver<Span>) {
    let instance = Instance { namespace: "ns".into(), host: "host".into(), pid: 7 };
    let options = TracerOptions { ratio, keep_failures, broker_host: Some("rabbit-1".into()), instance };
    let (spans, waiting) = queue(&SpanOutcomes(Arc::new(NoObserver)));
    (Tracer { options, spans }, waiting)
}

fn message(span: SpanDecision, outcome: Option<MessageOutcome>) -> MessageReport<'static> {
    MessageReport {
        message_type: "allocate",
        message_id: Some("m-1"),
        correlation_id: Some("c-1"),
        traceparent: None,
        span,
        body_bytes: 3,
        held_for: Duration::from_millis(20),
        redelivered: false,
        failed_message_id: None,
        generation: 0,
        handler: None,
        outcome,
        attempts: 0,
        error: None,
        error_group: None,
    }
}

/// The spans of a unit of work, in their order.
fn spans(result: UnitOfWorkResult, messages: &[MessageReport<'_>]) -> Vec<Span> {
    spans_of(Duration::from_millis(2), result, messages)
}

/// The same if the handlers take so long.
fn spans_of(handle: Duration, result: UnitOfWorkResult, messages: &[MessageReport<'_>]) -> Vec<Span> {
    let (tracer, mut waiting) = tracer(0.0, true);
    tracer.observe(&Report::UnitOfWork(&UnitOfWorkReport {
        queue: QueueName::Orders,
        source: Source::Queue,
        begin: SystemTime::UNIX_EPOCH + Duration::from_secs(10),
        load: Duration::from_millis(1),
        handle,
        commit: if result == UnitOfWorkResult::Committed { Duration::from_millis(3) } else { Duration::ZERO },
        result,
        messages,
    }));
    let mut spans = Vec::new();
    while let Ok(span) = waiting.try_recv() {
        spans.push(span);
    }
    spans
}

fn names(spans: &[Span]) -> Vec<&str> {
    spans.iter().map(|span| span.name.as_str()).collect()
}

#[test]
fn a_unit_of_work_without_a_recorded_message_has_no_span() {
    let handled = Some(MessageOutcome::Handled);
    let unrecorded = [SpanDecision::NotRecorded, SpanDecision::IfFailed(CONTEXT)];
    let messages = unrecorded.map(|span| message(span, handled));
    assert_eq!(names(&spans(UnitOfWorkResult::Committed, &messages)), [""; 0]);
}

#[test]
fn failed_and_slow_messages_are_recorded() {
    let if_failed = SpanDecision::IfFailed(CONTEXT);
    let handled = message(if_failed, Some(MessageOutcome::Handled));
    let dead = MessageReport {
        error: Some(ErrorClass::Panic),
        ..message(if_failed, Some(MessageOutcome::Dead(Reason::AttemptsExhausted)))
    };
    let retrying = message(if_failed, Some(MessageOutcome::Retrying));
    let (slow, quick) = (Duration::from_millis(1001), Duration::from_millis(2));
    for (kept, handle, error) in [(handled, slow, 0), (dead, quick, 2), (retrying, quick, 0)] {
        let spans = spans_of(handle, UnitOfWorkResult::Committed, &[kept]);
        assert_eq!(names(&spans), ["process ns.orders", "unit of work", "load", "handle", "commit"]);
        assert_eq!(spans[0].trace_id, CONTEXT.trace_id.to_be_bytes());
        assert_eq!(spans[0].status.as_ref().map_or(0, |status| status.code), error);
    }
}

/// It may have waited for a digest, or for the messages before it.
#[test]
fn a_message_that_waited_in_the_process_is_not_slow() {
    let waited = MessageReport {
        held_for: Duration::from_mins(1),
        ..message(SpanDecision::IfFailed(CONTEXT), Some(MessageOutcome::Handled))
    };
    assert_eq!(names(&spans(UnitOfWorkResult::Committed, &[waited])), [""; 0]);
}

#[test]
fn a_message_that_was_not_tried_is_not_recorded_like_a_failure() {
    for outcome in [
        MessageOutcome::Waiting,
        MessageOutcome::Postponed,
        MessageOutcome::Duplicate,
        MessageOutcome::Rejected,
    ] {
        let message = message(SpanDecision::IfFailed(CONTEXT), Some(outcome));
        assert_eq!(names(&spans(UnitOfWorkResult::Committed, &[message])), [""; 0], "{outcome:?}");
    }
}

#[test]
fn the_messages_of_a_unit_of_work_that_failed_have_no_span_yet() {
    let failed = UnitOfWorkResult::Failed(ErrorClass::Timeout);
    let spans = spans(failed, &[message(SpanDecision::Recorded(CONTEXT), None)]);
    assert_eq!(names(&spans), ["unit of work", "load", "handle"]);
    assert_eq!(spans[0].links.len(), 1);
    assert_eq!(spans[0].status.as_ref().map(|status| (status.code, status.message.as_str())), Some((2, "")));
}

#[test]
fn a_unit_of_work_has_a_limited_number_of_links() {
    let all: Vec<_> = (1..=200)
        .map(|span_id| {
            let context = TraceContext { span_id, ..CONTEXT };
            message(SpanDecision::Recorded(context), Some(MessageOutcome::Handled))
        })
        .collect();
    let spans = spans(UnitOfWorkResult::Committed, &all);
    let unit = spans.iter().find(|span| span.name == "unit of work").unwrap();
    assert_eq!((unit.links.len(), unit.dropped_links_count), (MAX_LINKS, 200 - 128));
}

#[test]
fn the_decision_about_failures_is_a_setting() {
    let unsampled = TraceContext { is_sampled: false, ..CONTEXT };
    for parent in [None, Some(unsampled)] {
        let kept = tracer(0.0, true).0.begin_span(parent, false);
        let root = kept.of_failure().unwrap();
        assert_eq!((kept.recorded(), root.is_sampled), (None, true));
        assert_ne!(root.trace_id, CONTEXT.trace_id);
        assert_eq!(tracer(0.0, false).0.begin_span(parent, false), SpanDecision::NotRecorded);
    }
}

//! Spans of what the relay publishes.

use std::time::SystemTime;

use opentelemetry_proto::tonic::trace::v1::span::{Link, SpanKind};

use crate::ports::{
    observer::{
        EventsPublished, Period, PublicationOutcome, PublishedEvent, PublishedRetry, RetriesPublished,
    },
    trace::TraceContext,
};

use super::{
    names, sampler,
    span::{SpanBuilder, attribute, link},
    tracer::Tracer,
};

impl Tracer {
    pub(super) fn events_published(&self, report: &EventsPublished<'_>) {
        let end = report.period.end();
        let links: Vec<_> = report.events.iter().filter_map(|event| event_link(event, end)).collect();
        let outcomes = report.events.iter().map(|event| event.outcome);
        let exchange = self.named("events");
        self.sent(format!("send {exchange}"), &exchange, report.period, links, outcomes);
    }

    pub(super) fn retries_published(&self, report: &RetriesPublished<'_>) {
        let links: Vec<_> = report.retries.iter().filter_map(retry_link).collect();
        let outcomes = report.retries.iter().map(|retry| retry.outcome);
        self.sent("send retry".into(), &self.named("retries"), report.period, links, outcomes);
    }

    /// A span of one window, in a trace of its own, if a message of a recorded trace is in it.
    fn sent(
        &self,
        name: String,
        exchange: &str,
        period: Period,
        links: Vec<Link>,
        outcomes: impl ExactSizeIterator<Item = PublicationOutcome>,
    ) {
        if links.is_empty() {
            return;
        }
        self.add(|| {
            let count = outcomes.len();
            let span = SpanBuilder::new(name, SpanKind::Client, sampler::root(), period)
                .with(names::OPERATION_NAME, names::SEND)
                .with(names::OPERATION_TYPE, names::SEND)
                .with(names::DESTINATION, exchange)
                .with(names::MESSAGE_COUNT, count)
                .link(links)
                .failed(first_error(outcomes));
            self.of_broker(span).build()
        });
    }
}

fn event_link(event: &PublishedEvent<'_>, confirmed_at: SystemTime) -> Option<Link> {
    let context = recorded(event.traceparent)?;
    let delay = confirmed_at.duration_since(event.committed_at).unwrap_or_default();
    let attributes = vec![
        attribute(names::MESSAGE_ID, event.event_id.to_string().as_str()),
        attribute(names::CONVERSATION_ID, event.correlation_id),
        attribute(names::ROUTING_KEY, event.name),
        attribute(names::SEQUENCE, event.sequence),
        attribute(names::DELAY, delay),
        attribute(names::OUTCOME, event.outcome.as_str()),
    ];
    Some(link(context, attributes))
}

fn retry_link(retry: &PublishedRetry<'_>) -> Option<Link> {
    let context = recorded(retry.traceparent)?;
    let mut attributes = vec![
        attribute(names::FAILED_MESSAGE_ID, retry.failed_message_id),
        attribute(names::GENERATION, retry.generation),
        attribute(names::OUTCOME, retry.outcome.as_str()),
    ];
    attributes.extend(retry.message_id.map(|id| attribute(names::MESSAGE_ID, id)));
    Some(link(context, attributes))
}

fn recorded(traceparent: Option<&str>) -> Option<TraceContext> {
    traceparent.and_then(TraceContext::parse).filter(|context| context.is_sampled)
}

fn first_error(outcomes: impl Iterator<Item = PublicationOutcome>) -> Option<&'static str> {
    let mut errors = outcomes.filter_map(|outcome| match outcome {
        PublicationOutcome::Confirmed | PublicationOutcome::Unroutable => None,
        error => Some(error.as_str()),
    });
    errors.next()
}

//! Spans in the form of OTLP.

use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{
        Span, Status,
        span::{Link, SpanKind},
        status::StatusCode,
    },
};

use crate::ports::{observer::Period, trace::TraceContext};

use super::names;

/// The largest number of links of one span; the remaining ones are counted.
pub(super) const MAX_LINKS: usize = 128;

/// Builds one span.
pub(super) struct SpanBuilder(Span);

impl SpanBuilder {
    pub(super) fn new(name: String, kind: SpanKind, context: TraceContext, period: Period) -> Self {
        let begin = unix_nanos(period.begin);
        Self(Span {
            trace_id: context.trace_id.to_be_bytes().into(),
            span_id: context.span_id.to_be_bytes().into(),
            flags: u32::from(context.is_sampled),
            name,
            kind: kind.into(),
            start_time_unix_nano: begin,
            end_time_unix_nano: begin.saturating_add(nanos(period.duration)),
            ..Span::default()
        })
    }

    /// Continues the trace of `parent`, or has a link to it if the span is in a trace of its own.
    pub(super) fn follows(self, parent: Option<TraceContext>) -> Self {
        let continues = |parent: &TraceContext| parent.trace_id.to_be_bytes()[..] == self.0.trace_id[..];
        match parent {
            Some(parent) if continues(&parent) => self.child_of(parent),
            other => self.linked_to(other),
        }
    }

    pub(super) fn child_of(mut self, parent: TraceContext) -> Self {
        self.0.parent_span_id = parent.span_id.to_be_bytes().into();
        self
    }

    pub(super) fn with(mut self, name: &str, value: impl Into<AttributeValue>) -> Self {
        self.0.attributes.push(attribute(name, value));
        self
    }

    pub(super) fn with_some(self, name: &str, value: Option<impl Into<AttributeValue>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    pub(super) fn linked_to(self, context: Option<TraceContext>) -> Self {
        self.link(context.map(|context| link(context, Vec::new())))
    }

    pub(super) fn link(mut self, links: impl IntoIterator<Item = Link>) -> Self {
        for link in links {
            if self.0.links.len() < MAX_LINKS {
                self.0.links.push(link);
            } else {
                self.0.dropped_links_count += 1;
            }
        }
        self
    }

    /// Marks the span as failed. The type is a class: a message would contain values.
    pub(super) fn failed(mut self, error_type: Option<&str>) -> Self {
        if let Some(error_type) = error_type {
            self = self.with(names::ERROR_TYPE, error_type);
            self.0.status = Some(Status { code: StatusCode::Error.into(), ..Status::default() });
        }
        self
    }

    pub(super) fn build(self) -> Span {
        self.0
    }
}

pub(super) fn link(context: TraceContext, attributes: Vec<KeyValue>) -> Link {
    Link {
        trace_id: context.trace_id.to_be_bytes().into(),
        span_id: context.span_id.to_be_bytes().into(),
        attributes,
        flags: u32::from(context.is_sampled),
        ..Link::default()
    }
}

/// The value of an attribute.
pub(super) struct AttributeValue(Value);

impl From<&str> for AttributeValue {
    fn from(text: &str) -> Self {
        Self(Value::StringValue(text.to_owned()))
    }
}

impl From<i64> for AttributeValue {
    fn from(number: i64) -> Self {
        Self(Value::IntValue(number))
    }
}

impl From<usize> for AttributeValue {
    fn from(number: usize) -> Self {
        Self(Value::IntValue(i64::try_from(number).unwrap_or(i64::MAX)))
    }
}

impl From<bool> for AttributeValue {
    fn from(value: bool) -> Self {
        Self(Value::BoolValue(value))
    }
}

impl From<Duration> for AttributeValue {
    fn from(duration: Duration) -> Self {
        Self(Value::DoubleValue(duration.as_secs_f64()))
    }
}

pub(super) fn attribute(name: &str, value: impl Into<AttributeValue>) -> KeyValue {
    let AttributeValue(value) = value.into();
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn unix_nanos(time: SystemTime) -> u64 {
    nanos(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

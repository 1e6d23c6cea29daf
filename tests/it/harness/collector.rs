//! A collector of traces.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1,
};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::{DRAINS_WITHIN, wait_until};

/// How the collector answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CollectorReply {
    /// It takes all spans.
    Accept,
    /// It takes all spans but so many.
    Reject(usize),
    /// It answers with this status.
    Status(u16),
    /// It never answers.
    Hang,
}

/// An exported span.
#[derive(Clone, Debug)]
pub(crate) struct ExportedSpan {
    pub(crate) name: String,
    pub(crate) kind: v1::span::SpanKind,
    pub(crate) trace_id: u128,
    pub(crate) span_id: u64,
    /// None for a root.
    pub(crate) parent: Option<u64>,
    pub(crate) begin: u64,
    pub(crate) end: u64,
    pub(crate) failed: bool,
    pub(crate) attributes: BTreeMap<String, String>,
    /// Trace and span of each link.
    pub(crate) links: Vec<(u128, u64)>,
    pub(crate) link_attributes: Vec<BTreeMap<String, String>>,
}

/// A collector that keeps what it takes.
pub(crate) struct TraceCollector {
    /// Its address, as a setting.
    pub(crate) endpoint: String,
    received: Arc<Received>,
    _server: AbortOnDropHandle<()>,
}

struct Received {
    reply: Mutex<CollectorReply>,
    requests: AtomicUsize,
    bodies: Mutex<Vec<ExportTraceServiceRequest>>,
}

impl TraceCollector {
    pub(crate) async fn start(reply: CollectorReply) -> Self {
        let received = Arc::new(Received {
            reply: Mutex::new(reply),
            requests: AtomicUsize::new(0),
            bodies: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let router = Router::new().route("/v1/traces", post(export)).with_state(received.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        Self { endpoint: format!("http://{address}"), received, _server: AbortOnDropHandle::new(server) }
    }

    pub(crate) fn set_reply(&self, reply: CollectorReply) {
        *self.received.reply.lock().unwrap_or_else(PoisonError::into_inner) = reply;
    }

    /// The number of requests, whatever their answers.
    pub(crate) fn requests(&self) -> usize {
        self.received.requests.load(Ordering::Relaxed)
    }

    /// All requests that were taken, as text, for searches.
    pub(crate) fn text(&self) -> String {
        format!("{:?}", self.received.bodies.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The attributes of the process that exports.
    pub(crate) fn resource(&self) -> BTreeMap<String, String> {
        let bodies = self.received.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        let resource = bodies.first().and_then(|body| body.resource_spans.first()?.resource.clone());
        attributes(&resource.expect("something was exported").attributes)
    }

    /// The spans so far, each once.
    pub(crate) fn spans(&self) -> Vec<ExportedSpan> {
        let bodies = self.received.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        let scopes = bodies.iter().flat_map(|body| &body.resource_spans).flat_map(|spans| &spans.scope_spans);
        let spans = scopes.flat_map(|scope| &scope.spans).map(exported);
        let spans: BTreeMap<_, _> = spans.map(|span| (span.span_id, span)).collect();
        spans.into_values().collect()
    }

    /// The spans of this name.
    pub(crate) fn named(&self, name: &str) -> Vec<ExportedSpan> {
        self.spans().into_iter().filter(|span| span.name == name).collect()
    }

    /// Waits for so many spans of a name.
    pub(crate) async fn wait_for(&self, name: &str, count: usize) -> Vec<ExportedSpan> {
        let what = format!("{count} spans {name:?} are exported");
        wait_until(&what, DRAINS_WITHIN, async || self.named(name).len() >= count).await;
        self.named(name)
    }
}

async fn export(State(received): State<Arc<Received>>, headers: HeaderMap, body: Bytes) -> Response {
    received.requests.fetch_add(1, Ordering::Relaxed);
    let reply = *received.reply.lock().unwrap_or_else(PoisonError::into_inner);
    let rejected_spans = match reply {
        CollectorReply::Accept => 0,
        CollectorReply::Reject(spans) => i64::try_from(spans).expect("the number is small"),
        CollectorReply::Status(status) => {
            return StatusCode::from_u16(status).expect("it is a status").into_response();
        }
        CollectorReply::Hang => std::future::pending().await,
    };
    assert_eq!(headers["content-type"], "application/x-protobuf");
    let request = ExportTraceServiceRequest::decode(body).expect("a request of OTLP");
    received.bodies.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    let partial_success = ExportTracePartialSuccess { rejected_spans, error_message: String::new() };
    ExportTraceServiceResponse { partial_success: Some(partial_success) }.encode_to_vec().into_response()
}

fn exported(span: &v1::Span) -> ExportedSpan {
    let parent = (!span.parent_span_id.is_empty()).then(|| span_id(&span.parent_span_id));
    ExportedSpan {
        name: span.name.clone(),
        kind: span.kind(),
        trace_id: trace_id(&span.trace_id),
        span_id: span_id(&span.span_id),
        parent,
        begin: span.start_time_unix_nano,
        end: span.end_time_unix_nano,
        failed: span.status.as_ref().is_some_and(|status| status.code() == v1::status::StatusCode::Error),
        attributes: attributes(&span.attributes),
        links: span.links.iter().map(|link| (trace_id(&link.trace_id), span_id(&link.span_id))).collect(),
        link_attributes: span.links.iter().map(|link| attributes(&link.attributes)).collect(),
    }
}

fn trace_id(bytes: &[u8]) -> u128 {
    u128::from_be_bytes(bytes.try_into().expect("a trace id has 16 bytes"))
}

fn span_id(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().expect("a span id has 8 bytes"))
}

fn attributes(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Option<AnyValue>| match value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        other => panic!("an attribute has the value {other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.clone(), text(&attribute.value))).collect()
}

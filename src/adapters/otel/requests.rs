//! Spans of HTTP requests.

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

use crate::ports::{observer::RequestReport, trace::TraceContext};

use super::{
    names,
    span::SpanBuilder,
    tracer::{SLOW, Tracer},
};

/// Statuses from here on are failures of this program.
const SERVER_ERROR: u16 = 500;

impl Tracer {
    pub(super) fn request(&self, report: &RequestReport<'_>) {
        let has_failed = report.status >= SERVER_ERROR;
        let is_kept = has_failed || report.period.duration > SLOW;
        let context = if is_kept { report.span.of_failure() } else { report.span.recorded() };
        // Probes ask every few seconds.
        let Some(context) = context.filter(|_| !report.route.starts_with("/health/")) else { return };
        self.add(|| {
            let name = format!("{} {}", report.method, report.route);
            let status = report.status.to_string();
            SpanBuilder::new(name, SpanKind::Server, context, report.period)
                .follows(report.traceparent.and_then(TraceContext::parse))
                .with(names::REQUEST_METHOD, report.method)
                .with(names::ROUTE, report.route)
                .with(names::STATUS_CODE, i64::from(report.status))
                .failed(has_failed.then_some(status.as_str()))
                .build()
        });
    }
}

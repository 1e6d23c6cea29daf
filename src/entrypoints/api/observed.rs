//! Reports each request to observers.

use std::sync::Arc;

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method},
    middleware::Next,
    response::Response,
};

use crate::ports::{
    observer::{Listener, Observer, Report, RequestReport, SpanDecision, Stopwatch},
    trace::TraceContext,
};

use super::state::ApiState;

/// The templates of the paths. A path that matches none is [`OTHER`].
const ROUTES: [&str; 9] = [
    "/add_batch",
    "/allocate",
    "/deallocate",
    "/change_batch_quantity",
    "/allocations/{orderid}",
    "/orders/{orderid}",
    "/availability/{sku}",
    "/health/live",
    "/health/ready",
];
/// The methods. Clients can send any other one.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT"];
const OTHER: &str = "other";
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

pub(super) async fn report(State(state): State<Arc<ApiState>>, mut request: Request, next: Next) -> Response {
    let observer = &state.api.observer;
    if !observer.is_active() {
        return next.run(request).await;
    }
    let begin = Stopwatch::start();
    let (route, method) = (route(request.extensions().get()), method(request.method()));
    let traceparent = only(request.headers(), &TRACEPARENT);
    let span = begin_span(&**observer, traceparent.as_deref(), request.headers_mut());
    let response = next.run(request).await;
    observer.observe(&Report::Request(&RequestReport {
        listener: Listener::Api,
        route,
        method,
        status: response.status().as_u16(),
        period: begin.period(),
        traceparent: traceparent.as_deref(),
        span,
    }));
    response
}

/// Begins the span of a request: if it is recorded, its command continues from it.
fn begin_span(observer: &dyn Observer, traceparent: Option<&str>, headers: &mut HeaderMap) -> SpanDecision {
    let client = traceparent.and_then(TraceContext::parse);
    let span = observer.begin_span(client, false);
    let context = span.recorded().and_then(|context| HeaderValue::from_str(&context.to_string()).ok());
    if let Some(context) = context {
        headers.insert(TRACEPARENT, context);
        if client.is_none() {
            headers.remove(TRACESTATE);
        }
    }
    span
}

/// The text of a header that occurs once.
fn only(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let mut values = headers.get_all(name).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    value.to_str().ok().map(str::to_owned)
}

fn route(matched: Option<&MatchedPath>) -> &'static str {
    let matched = matched.map(MatchedPath::as_str);
    ROUTES.into_iter().find(|route| Some(*route) == matched).unwrap_or(OTHER)
}

fn method(method: &Method) -> &'static str {
    METHODS.into_iter().find(|known| *known == method.as_str()).unwrap_or(OTHER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_named() {
        let sources = [include_str!("routes.rs"), include_str!("../health/routes.rs")];
        let routes = sources.iter().flat_map(|source| source.split(".route(\"").skip(1));
        let paths = routes.filter_map(|rest| rest.split('"').next());
        assert_eq!(paths.collect::<Vec<_>>(), ROUTES);
    }
}

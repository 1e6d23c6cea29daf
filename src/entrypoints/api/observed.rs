//! Reports each request to observers.

use std::sync::Arc;

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderName, Method},
    middleware::Next,
    response::Response,
};

use crate::ports::observer::{Listener, Report, RequestReport, Stopwatch};

use super::state::ApiState;

/// The templates of the paths. A path that matches none is [`OTHER`].
pub(super) const ROUTES: [&str; 9] = [
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

pub(super) async fn report(State(state): State<Arc<ApiState>>, request: Request, next: Next) -> Response {
    let observer = &state.api.observer;
    if !observer.is_active() {
        return next.run(request).await;
    }
    let begin = Stopwatch::start();
    let (route, method) = (route(request.extensions().get()), method(request.method()));
    let traceparent = request.headers().get(TRACEPARENT).cloned();
    let response = next.run(request).await;
    observer.observe(&Report::Request(&RequestReport {
        listener: Listener::Api,
        route,
        method,
        status: response.status().as_u16(),
        period: begin.period(),
        traceparent: traceparent.as_ref().and_then(|value| value.to_str().ok()),
    }));
    response
}

fn route(matched: Option<&MatchedPath>) -> &'static str {
    let matched = matched.map(MatchedPath::as_str);
    ROUTES.into_iter().find(|route| Some(*route) == matched).unwrap_or(OTHER)
}

fn method(method: &Method) -> &'static str {
    METHODS.into_iter().find(|known| *known == method.as_str()).unwrap_or(OTHER)
}

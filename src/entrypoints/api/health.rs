//! Liveness and readiness: a process that is not live must be restarted, one that is not ready gets no requests.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode, response::Response};
use serde_json::json;

use super::{responses, state::ApiState};

/// A partition that waits for a server is live; one that makes no progress with its batch is not.
pub(super) async fn live(State(state): State<Arc<ApiState>>) -> Response {
    let stalled = state.api.watchdog.stalled(state.api.stall_timeout);
    let status = if stalled.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    responses::json(status, &json!({ "live": stalled.is_empty(), "stuck": stalled }))
}

pub(super) async fn ready(State(state): State<Arc<ApiState>>) -> Response {
    let report = state.readiness.check().await;
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    responses::json(status, &report)
}

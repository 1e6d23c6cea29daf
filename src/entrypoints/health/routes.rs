//! Liveness and readiness: a process that is not live must be restarted, one that is not ready gets no requests.

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::State, http::StatusCode, response::Response, routing::get};
use serde_json::json;

use super::{
    super::{json_response::json, watchdog::Watchdog},
    readiness::Readiness,
};

/// Checks the health of a process. Clones share one check.
#[derive(Clone)]
pub struct Health(Arc<Checks>);

struct Checks {
    watchdog: Watchdog,
    stall_timeouts: StallTimeouts,
    readiness: Readiness,
}

/// What is busy with the same work for longer makes no progress.
#[derive(Clone, Copy, Debug)]
pub struct StallTimeouts {
    /// A partition with one batch.
    pub partition: Duration,
    /// A leading relay with one cycle.
    pub relay: Duration,
}

impl Health {
    /// Checks the tasks of a process and the servers that it needs.
    #[must_use]
    pub fn new(watchdog: Watchdog, stall_timeouts: StallTimeouts, readiness: Readiness) -> Self {
        Self(Arc::new(Checks { watchdog, stall_timeouts, readiness }))
    }

    /// The routes of the checks. They need no token.
    pub(in crate::entrypoints) fn router<S: Clone + Send + Sync + 'static>(&self) -> Router<S> {
        Router::new()
            .route("/health/live", get(live))
            .route("/health/ready", get(ready))
            .with_state(self.0.clone())
    }
}

/// A task that waits for a server is live; one that makes no progress with its work is not.
async fn live(State(checks): State<Arc<Checks>>) -> Response {
    let mut stalled = checks.watchdog.stalled(checks.stall_timeouts.partition);
    if checks.watchdog.relay().is_stalled(checks.stall_timeouts.relay) {
        stalled.push("relay");
    }
    let status = if stalled.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(status, &json!({ "live": stalled.is_empty(), "stuck": stalled }))
}

async fn ready(State(checks): State<Arc<Checks>>) -> Response {
    let report = checks.readiness.check().await;
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(status, &report)
}

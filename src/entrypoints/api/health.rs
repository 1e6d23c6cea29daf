//! Liveness and readiness: a process that is not live must be restarted, one that is not ready gets no requests.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{extract::State, http::StatusCode, response::Response};
use serde::Serialize;
use serde_json::json;
use tokio::sync::Mutex;

use crate::ports::admin::{Schema, Topology};

use super::{responses, state::ApiState};

/// A result is reused for this long: every check opens a connection to the broker.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A server that takes longer is not ready.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

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

/// What is ready. It contains no details, for access is not controlled here; `allocation status` has them.
#[derive(Clone, Copy, Serialize)]
struct ReadinessReport {
    ready: bool,
    database: &'static str,
    schema: &'static str,
    broker: &'static str,
}

/// Checks the servers.
pub(super) struct Readiness {
    schema: Arc<dyn Schema>,
    topology: Arc<dyn Topology>,
    last: Mutex<Option<(Instant, ReadinessReport)>>,
}

impl Readiness {
    pub(super) fn new(schema: Arc<dyn Schema>, topology: Arc<dyn Topology>) -> Self {
        Self { schema, topology, last: Mutex::new(None) }
    }

    async fn check(&self) -> ReadinessReport {
        let mut last = self.last.lock().await;
        if let Some((at, report)) = *last
            && at.elapsed() < CHECK_INTERVAL
        {
            return report;
        }
        let (version, queues) = tokio::join!(
            tokio::time::timeout(CHECK_TIMEOUT, self.schema.version()),
            tokio::time::timeout(CHECK_TIMEOUT, self.topology.queue_depths()),
        );
        let (database, schema) = match version {
            Ok(Ok(version)) if version.fits() => ("ok", "ok"),
            Ok(Ok(_)) => ("ok", "mismatch"),
            Ok(Err(_)) | Err(_) => ("unavailable", "unknown"),
        };
        let broker = if matches!(queues, Ok(Ok(_))) { "ok" } else { "unavailable, or a queue is missing" };
        let report = ReadinessReport { ready: schema == "ok" && broker == "ok", database, schema, broker };
        *last = Some((Instant::now(), report));
        report
    }
}

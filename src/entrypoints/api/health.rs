//! Is this process alive, and can it do its work now? The first restarts it, the second sends others elsewhere.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{extract::State, http::StatusCode, response::Response};
use serde::Serialize;
use serde_json::json;
use tokio::sync::Mutex;

use crate::ports::admin::{Schema, Topology};

use super::{ApiState, responses};

/// Who asks more often is told what the last one was told: every look is a new connection to the broker.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A server that takes longer is away, as far as anybody who asks here is concerned.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);

/// Consumers that wait for a server are alive; those that do nothing with what they hold are not.
pub(super) async fn live(State(shared): State<Arc<ApiState>>) -> Response {
    let stuck = shared.api.watchdog.stalled_lanes(shared.api.stuck_after);
    let status = if stuck.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    responses::json(status, &json!({ "live": stuck.is_empty(), "stuck": stuck }))
}

pub(super) async fn ready(State(shared): State<Arc<ApiState>>) -> Response {
    let answer = shared.readiness.look().await;
    let status = if answer.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    responses::json(status, &answer)
}

/// What is ready. Reasons are for `allocation status`: anybody may ask here.
#[derive(Clone, Copy, Serialize)]
struct ReadinessReport {
    ready: bool,
    database: &'static str,
    schema: &'static str,
    broker: &'static str,
}

/// Looks at the servers, seldom.
pub(super) struct Readiness {
    schema: Arc<dyn Schema>,
    topology: Arc<dyn Topology>,
    last: Mutex<Option<(Instant, ReadinessReport)>>,
}

impl Readiness {
    pub(super) fn new(schema: Arc<dyn Schema>, topology: Arc<dyn Topology>) -> Self {
        Self { schema, topology, last: Mutex::new(None) }
    }

    async fn look(&self) -> ReadinessReport {
        let mut last = self.last.lock().await;
        if let Some((at, answer)) = *last
            && at.elapsed() < LOOK_EVERY
        {
            return answer;
        }
        let (version, queues) = tokio::join!(
            tokio::time::timeout(ANSWERS_WITHIN, self.schema.version()),
            tokio::time::timeout(ANSWERS_WITHIN, self.topology.queue_depths()),
        );
        let (database, schema) = match version {
            Ok(Ok(version)) if version.fits() => ("ok", "ok"),
            Ok(Ok(_)) => ("ok", "does not fit"),
            Ok(Err(_)) | Err(_) => ("away", "unknown"),
        };
        let broker = if matches!(queues, Ok(Ok(_))) { "ok" } else { "away, or lacks a queue" };
        let answer = ReadinessReport { ready: schema == "ok" && broker == "ok", database, schema, broker };
        *last = Some((Instant::now(), answer));
        answer
    }
}

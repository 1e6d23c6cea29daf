//! Liveness and readiness of this process.

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

/// A report is reused for this time: each check opens a connection to the broker.
const CACHE_TTL: Duration = Duration::from_secs(1);

/// A server that takes longer is reported as unavailable.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// A consumer that waits for a server is alive; one that makes no progress with its messages is not.
pub(super) async fn live(State(shared): State<Arc<ApiState>>) -> Response {
    let stuck = shared.api.watchdog.stalled_lanes(shared.api.stuck_after);
    let status = if stuck.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    responses::json(status, &json!({ "live": stuck.is_empty(), "stuck": stuck }))
}

pub(super) async fn ready(State(shared): State<Arc<ApiState>>) -> Response {
    let answer = shared.readiness.report().await;
    let status = if answer.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    responses::json(status, &answer)
}

/// The state of each dependency. It contains no cause, because this endpoint needs no token; `allocation status` has it.
#[derive(Clone, Copy, Serialize)]
struct ReadinessReport {
    ready: bool,
    database: &'static str,
    schema: &'static str,
    broker: &'static str,
}

/// Checks the servers, at most once per [`CACHE_TTL`].
pub(super) struct Readiness {
    schema: Arc<dyn Schema>,
    topology: Arc<dyn Topology>,
    last: Mutex<Option<(Instant, ReadinessReport)>>,
}

impl Readiness {
    pub(super) fn new(schema: Arc<dyn Schema>, topology: Arc<dyn Topology>) -> Self {
        Self { schema, topology, last: Mutex::new(None) }
    }

    async fn report(&self) -> ReadinessReport {
        let mut last = self.last.lock().await;
        if let Some((at, answer)) = *last
            && at.elapsed() < CACHE_TTL
        {
            return answer;
        }
        let (version, queues) = tokio::join!(
            tokio::time::timeout(CHECK_TIMEOUT, self.schema.version()),
            tokio::time::timeout(CHECK_TIMEOUT, self.topology.queue_depths()),
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

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::ports::{
        admin::{DeclareResult, QueueDepth, SchemaVersion},
        error::{BrokerError, StoreError},
    };

    const SECRET: &str = "no route to db.internal, user allocation";

    struct Unavailable;

    #[async_trait]
    impl Schema for Unavailable {
        async fn version(&self) -> Result<SchemaVersion, StoreError> {
            Err(StoreError::Unavailable(SECRET.into()))
        }
    }

    #[async_trait]
    impl Topology for Unavailable {
        async fn declare(&self) -> Result<Vec<DeclareResult>, BrokerError> {
            Err(BrokerError::Unavailable(SECRET.into()))
        }

        async fn queue_depths(&self) -> Result<Vec<QueueDepth>, BrokerError> {
            Err(BrokerError::Unavailable(SECRET.into()))
        }
    }

    #[tokio::test]
    async fn readiness_names_the_dependency_and_no_cause() {
        let report = Readiness::new(Arc::new(Unavailable), Arc::new(Unavailable)).report().await;
        let report = serde_json::to_value(report).unwrap();
        let expected = json!({
            "ready": false, "database": "away", "schema": "unknown", "broker": "away, or lacks a queue"
        });
        assert_eq!(report, expected);
    }
}

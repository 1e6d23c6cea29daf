//! Checks whether the servers are ready.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::sync::Mutex;

use crate::ports::admin::{Schema, Topology};

/// A result is reused for this long: every check opens a connection to the broker.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A server that takes longer is not ready.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// What is ready. It contains no details, for access is not controlled here; `allocation status` has them.
#[derive(Clone, Copy, Serialize)]
pub(super) struct ReadinessReport {
    pub(super) ready: bool,
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

    pub(super) async fn check(&self) -> ReadinessReport {
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

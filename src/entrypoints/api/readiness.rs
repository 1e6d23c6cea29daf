//! Checks whether the servers are ready.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::sync::Mutex;

use crate::ports::admin::{Schema, Topology};

use super::super::watchdog::Watchdog;

/// A result is reused for this long: every check opens a connection to the broker.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A server that takes longer is not ready.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// What is ready. It contains no details, for access is not controlled here; `allocation status` has them.
#[derive(Clone, Serialize)]
pub(super) struct ReadinessReport {
    pub(super) ready: bool,
    database: &'static str,
    schema: &'static str,
    broker: &'static str,
    /// Queues that this process should consume and does not.
    not_consuming: Vec<String>,
}

/// Checks the servers.
pub(super) struct Readiness {
    schema: Arc<dyn Schema>,
    topology: Arc<dyn Topology>,
    watchdog: Watchdog,
    last: Mutex<Option<(Instant, ReadinessReport)>>,
}

impl Readiness {
    pub(super) fn new(schema: Arc<dyn Schema>, topology: Arc<dyn Topology>, watchdog: Watchdog) -> Self {
        Self { schema, topology, watchdog, last: Mutex::new(None) }
    }

    pub(super) async fn check(&self) -> ReadinessReport {
        let mut last = self.last.lock().await;
        if let Some((at, report)) = &*last
            && at.elapsed() < CHECK_INTERVAL
        {
            return report.clone();
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
        let not_consuming = self.watchdog.not_consuming();
        let ready = schema == "ok" && broker == "ok" && not_consuming.is_empty();
        let report = ReadinessReport { ready, database, schema, broker, not_consuming };
        *last = Some((Instant::now(), report.clone()));
        report
    }
}

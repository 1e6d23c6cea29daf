//! Checks whether the servers are ready.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use serde::{Serialize, Serializer};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    ports::{
        admin::{QueueDepth, Topology},
        installation::{DatabaseState, Installation},
    },
    service::{availability::AvailabilityLog, batch_handler::BatchHandler},
};

use super::super::{storage::Storage, watchdog::Watchdog};

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
    /// Whether failed messages may take more space: above the limit no queue is consumed.
    failed_messages: &'static str,
    /// Queues that this process should consume and does not.
    not_consuming: Vec<String>,
    /// The queues with messages that cannot be decoded. They hold up nothing.
    unreadable: Vec<UnreadableMessages>,
    /// Since when each part that is not ready has not been: for a server, since this process could not use it, otherwise
    /// since the first check that found it.
    #[serde(serialize_with = "rfc3339")]
    since: BTreeMap<&'static str, OffsetDateTime>,
}

/// Messages that cannot be decoded.
#[derive(Clone, Serialize)]
struct UnreadableMessages {
    queue: String,
    messages: u32,
}

fn unreadable(queues: Vec<QueueDepth>) -> Vec<UnreadableMessages> {
    let any = queues.into_iter().filter(|queue| queue.is_unreadable() && queue.ready > 0);
    any.map(|QueueDepth { name, ready, .. }| UnreadableMessages { queue: name, messages: ready }).collect()
}

/// Checks the servers.
pub struct Readiness {
    /// Cancelled once the database was checked at the start.
    pub checked: CancellationToken,
    /// The state of the database.
    pub installation: Arc<dyn Installation>,
    /// The namespace that the database must belong to.
    pub namespace: String,
    /// The availability of the database.
    pub database: Arc<AvailabilityLog>,
    /// The availability of the broker.
    pub broker: Arc<AvailabilityLog>,
    /// Probes the database.
    pub commands: Arc<dyn BatchHandler>,
    /// The state of the broker.
    pub topology: Arc<dyn Topology>,
    /// The consumers of this process.
    pub watchdog: Watchdog,
    /// Whether failed messages may take more space.
    pub storage: Storage,
    /// The last report.
    pub last: LastReport,
}

/// The last report, for a short time.
#[derive(Default)]
pub struct LastReport(Mutex<Option<(Instant, ReadinessReport)>>);

impl Readiness {
    pub(super) async fn check(&self) -> ReadinessReport {
        let mut last = self.last.0.lock().await;
        if let Some((at, report)) = &*last
            && at.elapsed() < CHECK_INTERVAL
        {
            return report.clone();
        }
        let (state, queues) = tokio::join!(
            tokio::time::timeout(CHECK_TIMEOUT, self.database_state()),
            tokio::time::timeout(CHECK_TIMEOUT, self.topology.queue_depths()),
        );
        let (database, schema) = match state.ok().flatten() {
            None => ("unavailable", "unknown"),
            Some(state) => (self.database(&state), if state.schema.fits() { "ok" } else { "mismatch" }),
        };
        let queues = queues.ok().and_then(Result::ok);
        let broker = if queues.is_some() { "ok" } else { "unavailable, or a queue is missing" };
        let unreadable = queues.map(unreadable).unwrap_or_default();
        let failed_messages =
            if self.storage.is_full().is_some() { "more than limits.failed_messages" } else { "ok" };
        let not_consuming: Vec<_> =
            self.watchdog.not_consuming().into_iter().map(|(queue, _)| queue).collect();
        let servers = [database, schema, broker];
        let ready = servers.iter().all(|part| *part == "ok") && not_consuming.is_empty();
        let mut report = ReadinessReport {
            ready,
            database,
            schema,
            broker,
            failed_messages,
            not_consuming,
            unreadable,
            since: BTreeMap::new(),
        };
        let before = last.take().map(|(_, report)| report.since).unwrap_or_default();
        report.since = self.since(&report, &before);
        *last = Some((Instant::now(), report.clone()));
        report
    }

    #[expect(clippy::disallowed_methods, reason = "the times are shown, not stored")]
    fn since(
        &self,
        report: &ReadinessReport,
        before: &BTreeMap<&'static str, OffsetDateTime>,
    ) -> BTreeMap<&'static str, OffsetDateTime> {
        let parts = [
            ("database", report.database != "ok", self.database.down_since()),
            ("schema", report.schema == "mismatch", None),
            ("broker", report.broker != "ok", self.broker.down_since()),
            ("failed_messages", report.failed_messages != "ok", None),
            ("not_consuming", !report.not_consuming.is_empty(), None),
        ];
        let failing = parts.into_iter().filter(|(_, fails, _)| *fails);
        let first_found = |part| before.get(part).copied().unwrap_or_else(OffsetDateTime::now_utc);
        failing
            .map(|(part, _, down)| {
                let found = first_found(part);
                (part, down.map_or(found, |down: SystemTime| found.min(down.into())))
            })
            .collect()
    }

    /// `None` before the database was checked and during an outage. It ends when a write succeeds; a process without commands writes nothing by itself.
    async fn database_state(&self) -> Option<DatabaseState> {
        if !self.checked.is_cancelled() {
            return None;
        }
        if self.database.is_down() {
            if let Err(error) = self.commands.probe().await {
                self.database.down(&error);
                return None;
            }
            self.database.up();
        }
        self.installation.state().await.ok()
    }

    fn database(&self, state: &DatabaseState) -> &'static str {
        if state.read_only {
            "read-only"
        } else if state.check_encoding().is_err() || state.check_namespace(&self.namespace).is_err() {
            "not usable"
        } else {
            "ok"
        }
    }
}

fn rfc3339<S: Serializer>(
    since: &BTreeMap<&'static str, OffsetDateTime>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let to_seconds = |time: &OffsetDateTime| time.truncate_to_second().format(&Rfc3339).unwrap_or_default();
    serializer.collect_map(since.iter().map(|(part, time)| (part, to_seconds(time))))
}

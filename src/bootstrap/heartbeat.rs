//! The heartbeats of a process.

use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    adapters::postgres::PgProcessRegistry,
    ports::processes::{BusyPartition, ProcessState, UnavailableServer, UnconsumedQueue},
    service::{availability::AvailabilityLog, heartbeat::Heartbeats},
};

use super::{app::App, policy::process_name};

/// Reports a process until it ends.
pub(super) struct HeartbeatTask {
    heartbeats: Arc<Heartbeats>,
    task: JoinHandle<()>,
    end: CancellationToken,
}

impl HeartbeatTask {
    pub(super) fn start(heartbeats: Heartbeats) -> Self {
        let (heartbeats, end) = (Arc::new(heartbeats), CancellationToken::new());
        let (reporting, ending) = (heartbeats.clone(), end.clone());
        let task = tokio::spawn(async move { reporting.run(&ending).await });
        Self { heartbeats, task, end }
    }

    /// Reports the orderly end. The last report comes after all others.
    pub(super) async fn stop(self) {
        self.end.cancel();
        self.heartbeats.stopped(self.task).await;
    }
}

impl App {
    /// The heartbeats of this process, which has these roles.
    #[expect(clippy::disallowed_methods, reason = "the id is of this process alone: no retry needs it")]
    pub(super) fn heartbeats(&self, roles: Vec<String>) -> Heartbeats {
        let watchdog = self.watchdog.clone();
        let servers = [self.database_log.clone(), self.broker_log.clone(), self.mail_log.clone()];
        let state = move || ProcessState {
            queues: watchdog.queues(),
            busy: watchdog.busy().into_iter().map(busy_partition).collect(),
            unavailable: servers.iter().filter_map(|log| unavailable(log)).collect(),
            not_consuming: watchdog
                .not_consuming()
                .into_iter()
                .map(|(queue, error)| UnconsumedQueue { queue, error })
                .collect(),
        };
        Heartbeats {
            registry: Arc::new(PgProcessRegistry::new(self.pool.clone(), self.settings.database.timeout)),
            id: Uuid::now_v7(),
            name: process_name(),
            version: env!("CARGO_PKG_VERSION"),
            roles,
            started: self.started,
            state: Box::new(state),
        }
    }
}

fn busy_partition((queue, busy): (&'static str, std::time::Duration)) -> BusyPartition {
    BusyPartition { queue: queue.to_owned(), seconds: busy.as_secs() }
}

fn unavailable(log: &AvailabilityLog) -> Option<UnavailableServer> {
    let (lasts, error) = log.outage_so_far()?;
    Some(UnavailableServer { server: log.dependency().to_owned(), seconds: lasts.as_secs(), error })
}

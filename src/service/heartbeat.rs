//! Reports this process to operators while it runs.

use std::{sync::Arc, time::Duration};

use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use uuid::Uuid;

use crate::ports::{
    error::error_text,
    processes::{HEARTBEAT_INTERVAL, Heartbeat, ProcessRegistry, ProcessState},
};

/// How often the state is compared with the last report.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long the end of the process waits for its last report.
const LAST_TIMEOUT: Duration = Duration::from_secs(1);

/// Reports one process.
pub struct Heartbeats {
    /// Where it is reported.
    pub registry: Arc<dyn ProcessRegistry>,
    /// The id of this run of the process.
    pub id: Uuid,
    /// The host and process id.
    pub name: String,
    /// The version of the program.
    pub version: &'static str,
    /// The roles of the process.
    pub roles: Vec<String>,
    /// The start of the process.
    pub started: Instant,
    /// What the process does now.
    pub state: Box<dyn Fn() -> ProcessState + Send + Sync>,
}

impl Heartbeats {
    /// Reports until `stop` is cancelled. A report that fails is made again after the interval: the state of the database is
    /// logged by those who need it.
    pub async fn run(&self, stop: &CancellationToken) {
        loop {
            let state = (self.state)();
            self.record(state.clone(), false).await;
            tokio::select! {
                () = self.next_report(&state) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Reports the orderly end of the process, after the task that reported it until now. What takes too long is not awaited:
    /// then the process is shown as lost.
    pub async fn stopped(&self, reporting: JoinHandle<()>) {
        let last = async {
            if reporting.await.is_ok() {
                self.record(ProcessState::default(), true).await;
            }
        };
        _ = tokio::time::timeout(LAST_TIMEOUT, last).await;
    }

    async fn record(&self, state: ProcessState, is_stopped: bool) {
        let heartbeat = Heartbeat {
            id: self.id,
            name: self.name.clone(),
            version: self.version,
            roles: self.roles.clone(),
            uptime: self.started.elapsed(),
            is_stopped,
            state,
        };
        if let Err(error) = self.registry.record(&heartbeat).await {
            debug!(error = error_text(&error), "the process was not reported");
        }
    }

    /// Waits for the interval, or until the process begins or ends to wait for something.
    async fn next_report(&self, last: &ProcessState) {
        let waits = |state: &ProcessState| {
            let servers = state.unavailable.iter().map(|server| server.server.clone());
            let queues = state.not_consuming.iter().map(|queue| queue.queue.clone());
            servers.chain(queues).collect::<Vec<_>>()
        };
        let (begin, waited) = (Instant::now(), waits(last));
        while begin.elapsed() < HEARTBEAT_INTERVAL {
            tokio::time::sleep(CHECK_INTERVAL).await;
            if waits(&(self.state)()) != waited {
                return;
            }
        }
    }
}

//! Starts the roles of a process, and stops them.

use std::sync::{Arc, PoisonError};

use anyhow::Context as _;
use clap::ValueEnum;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    adapters::postgres,
    config::Settings,
    ports::{
        admin::{DeclareResult, Topology as _},
        installation::{Installation as _, SchemaVersion, UnusableDatabase},
        observer::{Report, SchemaReport},
        queue::{QueueKind, QueueName},
    },
};

use super::{app::App, heartbeat::HeartbeatTask, observation::SpanExport, wait::retry_until_available};

/// What a process does; one process may have all roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Role {
    /// Handles commands.
    Worker,
    /// Publishes events, and retries of commands.
    Relay,
    /// Records the messages that the broker dead-lettered.
    Archive,
    /// Sends mail when a SKU is out of stock.
    Notifier,
    /// Serves HTTP.
    Api,
}

impl Role {
    /// The name of the role in settings, metrics and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Relay => "relay",
            Self::Archive => "archive",
            Self::Notifier => "notifier",
            Self::Api => "api",
        }
    }
}

impl App {
    /// Runs the roles until `stop` is cancelled, then lets them finish.
    ///
    /// An unavailable server is not an error: the process waits for it.
    ///
    /// # Errors
    /// The database has another encoding or schema version than required or belongs to another namespace, the address of
    /// the API cannot be used, or a role panicked.
    pub async fn run(&self, roles: &[Role], stop: &CancellationToken) -> anyhow::Result<()> {
        self.settings.warnings().iter().for_each(|warning| warn!("{warning}"));
        let spans = self.export_spans(stop)?;
        let ran = self.run_roles(roles, stop).await;
        if let Some(spans) = spans {
            spans.finish().await;
        }
        ran
    }

    /// Begins to export spans, if this process makes any.
    fn export_spans(&self, stop: &CancellationToken) -> anyhow::Result<Option<SpanExport>> {
        let exporter = self.exporter.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Settings { traces, worker, .. } = &self.settings;
        let start = |exporter| SpanExport::start(exporter, &traces.endpoint, stop, worker.shutdown_timeout);
        exporter.map(start).transpose()
    }

    async fn run_roles(&self, roles: &[Role], stop: &CancellationToken) -> anyhow::Result<()> {
        let (mut tasks, mut background) = (JoinSet::new(), JoinSet::new());
        if let Some(metrics) = self.metrics_server()
            && let Some(serving) = metrics.bind().await?
        {
            background.spawn(serving);
        }
        if let Some(health) = self.health_server() {
            let listener = health.bind().await?;
            background.spawn(async move { health.run(listener).await });
        }
        if roles.contains(&Role::Api) {
            // Before the servers respond, so that the readiness check can be queried meanwhile.
            let (api, stop) = (self.api(), stop.clone());
            let listener = api.bind().await?;
            tasks.spawn(async move { api.run(listener, &stop).await });
        }
        if !self.wait_for_database(roles, stop).await? {
            return self.finish(tasks, stop).await; // The API may still have requests to answer.
        }
        let names = roles.iter().map(|role| role.name().to_owned()).collect();
        let heartbeats = HeartbeatTask::start(self.heartbeats(names));
        let ran = self.run_on_database(roles, stop, tasks, &mut background).await;
        if ran.is_ok() {
            heartbeats.stop().await;
        }
        ran
    }

    async fn run_on_database(
        &self,
        roles: &[Role],
        stop: &CancellationToken,
        mut tasks: JoinSet<()>,
        background: &mut JoinSet<()>,
    ) -> anyhow::Result<()> {
        if !self.wait_for_topology(stop).await {
            return self.finish(tasks, stop).await;
        }
        background.spawn(postgres::forward_commits(
            self.pool.clone(),
            self.settings.database.timeout,
            self.commit_signal.clone(),
        ));
        self.monitor_storage(stop, background);
        let (outages, stopping) = (self.outage_end(), stop.clone());
        background.spawn(async move { outages.run(&stopping).await });
        for role in roles {
            self.start(*role, stop, &mut tasks, background);
        }
        info!(?roles, namespace = self.settings.namespace, "running");
        self.finish(tasks, stop).await
    }

    fn start(
        &self,
        role: Role,
        stop: &CancellationToken,
        tasks: &mut JoinSet<()>,
        background: &mut JoinSet<()>,
    ) {
        match role {
            Role::Worker => {
                self.consume(&[QueueName::Orders, QueueName::Stock], QueueKind::Main, stop, tasks);
            }
            Role::Notifier => {
                if self.settings.smtp.url.expose().is_empty() {
                    info!("smtp.url is empty: each notification is a log line");
                }
                self.consume(&[QueueName::Notifications], QueueKind::Main, stop, tasks);
            }
            Role::Archive => self.consume(&QueueName::ALL, QueueKind::DeadLetter, stop, tasks),
            Role::Relay => {
                let outbox = Arc::new(self.outbox());
                let (relay, stop) = (self.relay(outbox.clone()), stop.clone());
                background.spawn(async move { outbox.listen().await });
                tasks.spawn(async move { relay.run(&stop).await });
            }
            Role::Api => {} // Started first.
        }
    }

    fn consume(
        &self,
        queues: &[QueueName],
        queue_kind: QueueKind,
        stop: &CancellationToken,
        tasks: &mut JoinSet<()>,
    ) {
        for queue in queues {
            let (consumer, stop) = (self.consumer(*queue, queue_kind), stop.clone());
            tasks.spawn(async move { consumer.run(&stop).await });
        }
    }

    /// Waits until every role has ended, but after `stop` no longer than `worker.shutdown_timeout`. A role that ends before
    /// `stop` has panicked; the process ends with it, so that its supervisor can restart it.
    async fn finish(&self, mut tasks: JoinSet<()>, stop: &CancellationToken) -> anyhow::Result<()> {
        let shutdown_timeout = self.settings.worker.shutdown_timeout;
        let overdue = async {
            stop.cancelled().await;
            tokio::time::sleep(shutdown_timeout).await;
        };
        let ended = async {
            while let Some(ended) = tasks.join_next().await {
                ended.context("a role panicked; its unacknowledged messages will be redelivered")?;
            }
            Ok(())
        };
        tokio::select! {
            ended = ended => {
                info!("stopped");
                ended
            }
            () = overdue => {
                warn!(?shutdown_timeout, "stopped before everything was finished; the rest will be redelivered");
                Ok(())
            }
        }
    }

    /// Waits until the database accepts writes. False if `stop` was cancelled first.
    async fn wait_for_database(&self, roles: &[Role], stop: &CancellationToken) -> anyhow::Result<bool> {
        let check = || async { self.claim_database(roles).await };
        let Some(usable) = retry_until_available(&self.database_log, stop, check).await else {
            return Ok(false);
        };
        usable?;
        self.checked.cancel();
        Ok(true)
    }

    /// Records the namespace unless one is recorded. The outer error is an outage, the inner one a refusal.
    async fn claim_database(&self, roles: &[Role]) -> anyhow::Result<Result<(), UnusableDatabase>> {
        if let Err(unusable) = self.check_sessions(roles).await? {
            return Ok(Err(unusable));
        }
        let installation = self.installation();
        let mut state = installation.state().await?;
        let SchemaVersion { found, expected, .. } = state.schema;
        self.observer.observe(&Report::Schema(SchemaReport { found, expected }));
        if let Err(unusable) = state.check(self.namespace()) {
            return Ok(Err(unusable));
        }
        self.probe_database().await?;
        state.namespace = Some(installation.claim().await?);
        Ok(state.check(self.namespace()))
    }

    /// Whether the database gives sessions of their own to roles that need one. The outer error is an outage.
    async fn check_sessions(&self, roles: &[Role]) -> anyhow::Result<Result<(), UnusableDatabase>> {
        // Only a relay uses another URL than the other roles.
        if self.settings.database.session_url.expose().is_empty() || roles.contains(&Role::Relay) {
            return Ok(postgres::check_sessions(&self.pg).await?);
        }
        Ok(Ok(()))
    }

    /// Waits for the broker. False if `stop` was cancelled first.
    async fn wait_for_topology(&self, stop: &CancellationToken) -> bool {
        let topology = self.topology();
        let declared = retry_until_available(&self.broker_log, stop, || topology.declare()).await;
        for declared in declared.iter().flatten() {
            if let DeclareResult::Mismatch(name, difference) = declared {
                warn!(name, difference, "exists with other arguments and is used unchanged");
            }
        }
        declared.is_some()
    }
}

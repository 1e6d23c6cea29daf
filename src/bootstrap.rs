//! The composition root: the only place that knows every layer. It builds the parts and starts the roles.

mod csv_run;
mod demo_run;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::ValueEnum;
use gethostname::gethostname;
use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    adapters::{
        postgres::{
            self, CommitSignal, PgConfig, PgFailedMessages, PgOutbox, PgReadModel, PgSchema, PgStore,
        },
        rabbitmq::{RabbitCommandSender, RabbitConfig, RabbitPublisher, RabbitQueues, RabbitTopology},
        smtp::SmtpNotifier,
    },
    config::Settings,
    entrypoints::{api::Api, consumer::Consumer, watchdog::Watchdog},
    ports::{
        admin::{CommandSender, DeclareResult, ReadModel, Schema, SchemaVersion, Topology},
        failed_messages::FailedMessages,
        outbox::{ParkedEvents, Retention},
        queue::{QueueKind, QueueName},
    },
    service::{
        availability::AvailabilityLog,
        backoff::{Backoff, RetryPolicy},
        decode::Limits,
        message_bus::{FailurePolicy, MessageBus},
        relay::Relay,
    },
    views::Views,
};

pub use csv_run::{CsvErrors, CsvReport, allocate_files};
pub use demo_run::{DemoReport, play_in_memory};

/// Notifications that this process holds at most: mail takes its time, and others may have less to do.
const NOTIFIER_PREFETCH: u16 = 20;
/// So many times the time that a handler has. A unit of work that breaks over it is handled once more, one by one, and each
/// command may take its time; one that needs longer than this might as well be stuck.
const STALL_TIMEOUT_FACTOR: u32 = 60;

/// A unit of work has this part of the grace: what is left is for handing back the rest in good order.
const FINISHES_WITHIN: f64 = 0.8;

/// What a process can be; one may be all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Role {
    /// Handles commands.
    Worker,
    /// Publishes events, and retries of commands.
    Relay,
    /// Takes what the broker put aside into the ledger.
    Archive,
    /// Sends mail when something is out of stock.
    Notifier,
    /// Answers HTTP.
    Api,
}

/// The parts, ready to be used. Nothing is connected before it is needed.
pub struct App {
    settings: Settings,
    access: PgConfig,
    pool: PgPool,
    broker: RabbitConfig,
    commit_signal: Arc<CommitSignal>,
    database_outage: Arc<AvailabilityLog>,
    broker_outage: Arc<AvailabilityLog>,
    mail_outage: Arc<AvailabilityLog>,
    watchdog: Watchdog,
    bus: MessageBus,
}

impl App {
    /// Builds the parts.
    ///
    /// # Errors
    /// A URL or an address in the settings is none.
    pub fn new(settings: Settings) -> anyhow::Result<Self> {
        let Settings { database, broker, smtp, notifications, .. } = &settings;
        let access = PgConfig::new(database.url.expose(), database.max_connections.get(), database.timeout)
            .context("database.url (or DATABASE_URL) is not a PostgreSQL URL")?;
        let broker = RabbitConfig::new(broker.url.expose(), &settings.namespace)
            .context("broker.url (or AMQP_URL) cannot be used")?;
        let notifier = SmtpNotifier::new(smtp.url.expose(), &notifications.from, &notifications.to)?;
        let (pool, commit_signal) = (access.pool(), Arc::<CommitSignal>::default());
        let store = PgStore::new(pool.clone(), &access, commit_signal.clone());
        Ok(Self {
            bus: MessageBus::new(Arc::new(store), Arc::new(notifier), policy(&settings)),
            pool,
            access,
            broker,
            commit_signal,
            database_outage: Arc::new(AvailabilityLog::of("the database")),
            broker_outage: Arc::new(AvailabilityLog::of("the broker")),
            mail_outage: Arc::new(AvailabilityLog::of("the mail server")),
            watchdog: Watchdog::default(),
            settings,
        })
    }

    /// The read side.
    #[must_use]
    pub fn views(&self) -> Views {
        Views::new(self.pool.clone(), self.settings.namespace.clone(), self.settings.database.timeout)
    }

    /// Exchanges and queues.
    #[must_use]
    pub fn topology(&self) -> impl Topology + use<> {
        RabbitTopology(self.broker.clone())
    }

    /// A way to enqueue commands.
    #[must_use]
    pub fn sender(&self) -> impl CommandSender + use<> {
        RabbitCommandSender::new(self.broker.clone())
    }

    /// The ledger of failures, for operators.
    #[must_use]
    pub fn ledger(&self) -> impl FailedMessages + use<> {
        PgFailedMessages::new(self.pool.clone(), &self.access)
    }

    /// Events that were set aside, for operators.
    #[must_use]
    pub fn refused_events(&self) -> impl ParkedEvents + use<> {
        PgFailedMessages::new(self.pool.clone(), &self.access)
    }

    /// What is read of orders.
    #[must_use]
    pub fn read_model(&self) -> impl ReadModel + use<> {
        PgReadModel::new(self.pool.clone(), &self.access)
    }

    /// What stands before the name of every queue.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.settings.namespace
    }

    /// Creates the database if need be, and brings its schema up to date.
    ///
    /// # Errors
    /// The database is away, or a migration failed.
    pub async fn migrate(&self) -> anyhow::Result<SchemaVersion> {
        postgres::migrate(self.settings.database.url.expose())
            .await
            .context("the schema was not brought up to date")
    }

    /// The schema's version, beside the one that is needed.
    ///
    /// # Errors
    /// The database is away.
    pub async fn schema_version(&self) -> anyhow::Result<SchemaVersion> {
        Ok(PgSchema::new(self.pool.clone(), &self.access).version().await?)
    }

    /// Plays the roles until `stop`, then finishes what is in hand.
    ///
    /// # Errors
    /// The schema is not the one this program needs, or the API's address cannot be taken. A server that is away is
    /// no error: it is waited for.
    pub async fn run(&self, roles: &[Role], stop: &CancellationToken) -> anyhow::Result<()> {
        let (mut tasks, mut background) = (JoinSet::new(), JoinSet::new());
        if roles.contains(&Role::Api) {
            // First, so that others can ask whether this process is ready while it waits for its servers.
            let (api, stop) = (self.api(), stop.clone());
            let listener = api.bind().await?;
            tasks.spawn(async move { api.run(listener, &stop).await });
        }
        if !self.wait_for_schema(stop).await? || !self.wait_for_topology(stop).await {
            return self.finish(tasks, stop).await; // Told to stop: there may be requests in hand.
        }
        background.spawn(postgres::forward_commits(
            self.pool.clone(),
            self.settings.database.timeout,
            self.commit_signal.clone(),
        ));
        for role in roles {
            match role {
                Role::Worker => {
                    self.consume(&[QueueName::Orders, QueueName::Stock], QueueKind::Main, stop, &mut tasks);
                }
                Role::Notifier => {
                    self.consume(&[QueueName::Notifications], QueueKind::Main, stop, &mut tasks)
                }
                Role::Api => {} // It serves already.
                Role::Archive => self.consume(&QueueName::ALL, QueueKind::DeadLetter, stop, &mut tasks),
                Role::Relay => {
                    let outbox = Arc::new(PgOutbox::new(self.access.clone(), self.commit_signal.clone()));
                    let (relay, stop) = (self.relay(outbox.clone()), stop.clone());
                    background.spawn(async move { outbox.listen().await });
                    tasks.spawn(async move { relay.run(&stop).await });
                }
            }
        }
        info!(?roles, namespace = self.settings.namespace, "running");
        self.finish(tasks, stop).await
    }

    /// Waits for the roles to end, and once they are to stop, not longer than the grace. None ends by itself: one that
    /// does has panicked, and the process with it, so that whoever supervises it notices.
    async fn finish(&self, mut tasks: JoinSet<()>, stop: &CancellationToken) -> anyhow::Result<()> {
        let shutdown_timeout = self.settings.worker.shutdown_timeout;
        let overdue = async {
            stop.cancelled().await;
            tokio::time::sleep(shutdown_timeout).await;
        };
        let ended = async {
            while let Some(ended) = tasks.join_next().await {
                ended.context("a role ended by a panic; what it had in hand will be redelivered")?;
            }
            Ok(())
        };
        tokio::select! {
            ended = ended => {
                info!("stopped");
                ended
            }
            () = overdue => {
                warn!(?shutdown_timeout, "not everything was finished; the rest will be redelivered");
                Ok(())
            }
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
            let (worker, stop) = (self.worker(*queue, queue_kind), stop.clone());
            tasks.spawn(async move { worker.run(&stop).await });
        }
    }

    fn worker(&self, queue: QueueName, queue_kind: QueueKind) -> Consumer {
        let settings = &self.settings.worker;
        // A mail that was sent is noted at once: a kill in between has it sent again.
        let mails = queue == QueueName::Notifications && queue_kind == QueueKind::Main;
        let (prefetch, max_batch) =
            if mails { (NOTIFIER_PREFETCH, 1) } else { (settings.prefetch.get(), settings.max_batch.get()) };
        Consumer {
            queue,
            queue_kind,
            limits: self.limits(),
            queues: Arc::new(RabbitQueues::new(self.broker.clone(), prefetch)),
            bus: self.bus.clone(),
            partitions: if queue_kind == QueueKind::Main { settings.partitions.get() } else { 1 },
            max_batch,
            requeue_after: settings.requeue_after,
            finish_timeout: settings.shutdown_timeout.mul_f64(FINISHES_WITHIN),
            watchdog: self.watchdog.clone(),
            database: self.database_outage.clone(),
            mail: mails.then(|| self.mail_outage.clone()),
            broker: self.broker_outage.clone(),
        }
    }

    fn api(&self) -> Api {
        let Settings { api, worker, .. } = &self.settings;
        Api {
            listen: api.listen,
            token: api.token.expose().map(str::to_owned),
            timeout: api.timeout,
            limits: self.limits(),
            tasks: worker.partitions.get(),
            max_batch: worker.max_batch.get(),
            stuck_after: worker.handler_timeout * STALL_TIMEOUT_FACTOR,
            bus: self.bus.clone(),
            views: self.views(),
            topology: Arc::new(self.topology()),
            schema: Arc::new(PgSchema::new(self.pool.clone(), &self.access)),
            watchdog: self.watchdog.clone(),
            database: self.database_outage.clone(),
        }
    }

    fn retention(&self) -> Retention {
        let settings = &self.settings.retention;
        Retention { inbox: settings.inbox, failures: settings.failures }
    }

    fn limits(&self) -> Limits {
        Limits {
            body_bytes: self.settings.limits.body_bytes.get(),
            header_bytes: self.settings.limits.header_bytes.get(),
        }
    }

    fn relay(&self, outbox: Arc<PgOutbox>) -> Relay {
        Relay {
            outbox,
            publisher: Arc::new(RabbitPublisher::new(self.broker.clone())),
            max_in_flight: self.settings.relay.max_in_flight.get(),
            retention: self.retention(),
            database: self.database_outage.clone(),
            broker: self.broker_outage.clone(),
        }
    }

    /// Waits for the database; false if told to stop before it answered.
    async fn wait_for_schema(&self, stop: &CancellationToken) -> anyhow::Result<bool> {
        let ask = || async { self.schema_version().await };
        match retry_until_available(&self.database_outage, stop, ask).await {
            Some(version) if version.fits() => Ok(true),
            Some(version) => anyhow::bail!("{version}"),
            None => Ok(false),
        }
    }

    /// Waits for the broker; false if told to stop before it answered.
    async fn wait_for_topology(&self, stop: &CancellationToken) -> bool {
        let topology = self.topology();
        let Some(declared) = retry_until_available(&self.broker_outage, stop, || topology.declare()).await
        else {
            return false;
        };
        for declared in declared {
            if let DeclareResult::Mismatch(name, how) = declared {
                warn!(name, how, "exists with other arguments and is used as it is");
            }
        }
        true
    }
}

fn policy(settings: &Settings) -> FailurePolicy {
    let retry = &settings.retry;
    FailurePolicy {
        handler_timeout: settings.worker.handler_timeout,
        retry: RetryPolicy {
            max_attempts: retry.max_attempts.get(),
            initial_interval: retry.initial_interval,
            multiplier: retry.multiplier,
            max_interval: retry.max_interval,
            jitter: retry.jitter,
        },
        host: format!("{}:{}", gethostname().to_string_lossy(), std::process::id()),
    }
}

/// Asks until there is an answer, or until told to stop.
async fn retry_until_available<T, E, F>(
    outage: &AvailabilityLog,
    stop: &CancellationToken,
    ask: impl Fn() -> F,
) -> Option<T>
where
    F: Future<Output = Result<T, E>>,
    E: Into<anyhow::Error>,
{
    let mut delays = Backoff::during_outage();
    loop {
        match stop.run_until_cancelled(ask()).await? {
            Ok(answer) => {
                outage.up();
                return Some(answer);
            }
            Err(error) => outage.down(&*error.into()),
        }
        let delay = delays.next().unwrap_or(Duration::from_secs(1));
        stop.run_until_cancelled(tokio::time::sleep(delay)).await?;
    }
}

//! Builds the parts from the settings.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    adapters::{
        mail::MailAddresses,
        otel::SpanExporter,
        postgres::{
            self, CommitSignal, Migration, PgFailedMessages, PgInstallation, PgOutbox, PgParkedEvents,
            PgReadModel, PgStore,
        },
        prometheus::PrometheusObserver,
        rabbitmq::{RabbitCommandSender, RabbitConfig, RabbitPublisher, RabbitQueues, RabbitTopology},
    },
    config::{Settings, Worker},
    entrypoints::{api::Api, consumer::Consumer, storage::Storage, watchdog::Watchdog},
    faults,
    pg::{PgConfig, Pool},
    ports::{
        admin::{CommandSender, ReadModel, Topology},
        failed_messages::FailedMessages,
        installation::{DatabaseState, Installation as _, SchemaVersion},
        observer::{Observer, Server},
        outbox::{ParkedEvents, Retention},
        queue::{QueueKind, QueueName},
        store::Store,
    },
    service::{
        archive::Archive,
        availability::{AvailabilityLog, Dependencies},
        batch_handler::BatchHandler,
        decode::Limits,
        message_bus::MessageBus,
        notifications::NotificationHandler,
        relay::Relay,
    },
    views::Views,
};

use super::{memory::MemoryShares, observation::Observation, policy::policy, servers};

/// Unacknowledged notifications per process. Sending mail is slow, so the others stay available to other processes.
const NOTIFIER_PREFETCH: u16 = 20;
/// The largest number of notifications in one mail.
const MAX_DIGEST: u16 = 500;
/// The part of the shutdown timeout that the current unit of work may use; the remainder is for returning messages.
const FINISH_SHARE: f64 = 0.8;

/// The parts of the program. None of them connects to a server before it is used.
pub struct App {
    pub(super) settings: Settings,
    pub(super) pg: PgConfig,
    pub(super) pool: Pool,
    store: Arc<dyn Store>,
    /// Cancelled once the database was checked: before that, nothing is written.
    pub(super) checked: CancellationToken,
    pub(super) broker: RabbitConfig,
    pub(super) commit_signal: Arc<CommitSignal>,
    pub(super) database_log: Arc<AvailabilityLog>,
    pub(super) broker_log: Arc<AvailabilityLog>,
    pub(super) mail_log: Arc<AvailabilityLog>,
    pub(super) watchdog: Watchdog,
    pub(super) storage: Storage,
    pub(super) observer: Arc<dyn Observer>,
    /// Until it runs.
    pub(super) exporter: Mutex<Option<SpanExporter>>,
    pub(super) metrics: Option<Arc<PrometheusObserver>>,
    pub(super) commands: Arc<MessageBus>,
    archive: Arc<Archive>,
    pub(super) notifications: Arc<NotificationHandler>,
    /// When the process began.
    pub(super) started: Instant,
}

impl App {
    /// Builds the parts.
    ///
    /// # Errors
    /// A URL or an address in the settings is invalid.
    pub fn new(settings: Settings) -> anyhow::Result<Self> {
        let Settings { database, broker, smtp, notifications, .. } = &settings;
        let pg = servers::database(database)?;
        let broker = RabbitConfig::new(broker.url.expose(), &settings.namespace)
            .context("broker.url (or AMQP_URL) cannot be used")?
            .with_single_active_consumer(settings.queues.single_active_consumer);
        let addresses = MailAddresses::new(&notifications.from, &notifications.to)?;
        let (pool, commit_signal) = (pg.pool(), Arc::<CommitSignal>::default());
        let store = faults::store(PgStore::new(pool.clone(), &pg, commit_signal.clone()));
        let notifier = servers::notifier(smtp.url.expose(), addresses)?;
        let policy = policy(&settings);
        let Observation { observer, metrics, exporter } = Observation::new(&settings, broker.host());
        let log = |name, server| Arc::new(AvailabilityLog::observed(name, server, observer.clone()));
        Ok(Self {
            database_log: log("database", Server::Database),
            broker_log: log("broker", Server::Broker),
            mail_log: log("mail server", Server::Mail),
            commands: Arc::new(MessageBus::new(store.clone(), policy.clone(), observer.clone())),
            archive: Arc::new(Archive::new(store.clone(), policy.clone(), observer.clone())),
            notifications: Arc::new(NotificationHandler::new(
                store.clone(),
                notifier,
                policy,
                observer.clone(),
            )),
            observer,
            exporter: Mutex::new(exporter),
            metrics,
            pool,
            store,
            checked: CancellationToken::new(),
            pg,
            broker,
            commit_signal,
            watchdog: Watchdog::default(),
            storage: Storage::default(),
            settings,
            started: Instant::now(),
        })
    }

    /// The queries of the read side.
    #[must_use]
    pub fn views(&self) -> Views {
        Views::new(self.pool.clone(), self.settings.namespace.clone(), self.settings.database.timeout)
    }

    /// Declares and inspects exchanges and queues.
    #[must_use]
    pub fn topology(&self) -> impl Topology + use<> {
        RabbitTopology(self.broker.clone())
    }

    /// Enqueues commands.
    #[must_use]
    pub fn sender(&self) -> impl CommandSender + use<> {
        RabbitCommandSender::new(self.broker.clone())
    }

    /// The operators' actions on failed messages.
    #[must_use]
    pub fn failed_messages(&self) -> impl FailedMessages + use<> {
        faults::failed_messages(PgFailedMessages::new(self.pool.clone(), &self.pg))
    }

    /// The operators' actions on parked events.
    #[must_use]
    pub fn parked_events(&self) -> impl ParkedEvents + use<> {
        PgParkedEvents::new(self.pool.clone(), &self.pg)
    }

    /// The maintenance of the read model.
    #[must_use]
    pub fn read_model(&self) -> impl ReadModel + use<> {
        PgReadModel::new(self.pool.clone(), &self.pg)
    }

    /// The prefix of every exchange and queue name.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.settings.namespace
    }

    /// Creates the database if it is missing, migrates its schema and records the namespace; `rename` replaces another one.
    /// `on_delay` receives a text each time another session delays the migration.
    ///
    /// # Errors
    /// The database is unavailable or cannot be used, or a migration failed.
    pub async fn migrate(
        &self,
        rename: bool,
        on_delay: &(dyn Fn(&str) + Send + Sync),
    ) -> anyhow::Result<SchemaVersion> {
        let migration = Migration { namespace: &self.settings.namespace, rename, on_delay };
        postgres::migrate(&self.pg, &migration).await.context("the schema was not migrated")
    }

    /// The state of the database.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn database_state(&self) -> anyhow::Result<DatabaseState> {
        Ok(self.installation().state().await?)
    }

    /// Whether this program may write to the database.
    ///
    /// # Errors
    /// The database is unavailable, has another encoding or schema version than required, or belongs to another namespace.
    pub async fn check_database(&self) -> anyhow::Result<()> {
        Ok(self.database_state().await?.check(&self.settings.namespace)?)
    }

    /// Writes to the database and removes what was written.
    ///
    /// # Errors
    /// The database is unavailable, or accepts no writes.
    pub async fn probe_database(&self) -> anyhow::Result<()> {
        Ok(self.store.probe().await?)
    }

    pub(super) fn installation(&self) -> PgInstallation {
        PgInstallation::new(self.pool.clone(), &self.pg, &self.settings.namespace)
    }

    pub(super) fn consumer(&self, queue: QueueName, queue_kind: QueueKind) -> Consumer {
        let settings = &self.settings.worker;
        let mails = queue == QueueName::Notifications && queue_kind == QueueKind::Main;
        let Batching { prefetch, max_batch, partitions, collect_for } = match (mails, queue_kind) {
            (true, _) => self.mail_batching(),
            (false, QueueKind::Main) => Batching::of(settings, settings.partitions.get()),
            (false, QueueKind::DeadLetter) => Batching::of(settings, 1),
        };
        Consumer {
            queue,
            queue_kind,
            has_delivery_limit: true,
            limits: self.limits(),
            prefetch: self.memory().deliveries(queue_kind, prefetch),
            queues: faults::queues(RabbitQueues(self.broker.clone())),
            handler: self.handler(queue, queue_kind),
            partitions,
            max_batch,
            collect_for,
            requeue_after: settings.requeue_after,
            finish_timeout: settings.shutdown_timeout.mul_f64(FINISH_SHARE),
            watchdog: self.watchdog.clone(),
            storage: self.storage.clone(),
            dependencies: Dependencies {
                database: self.database_log.clone(),
                notifier: mails.then(|| self.mail_log.clone()),
            },
            broker: self.broker_log.clone(),
            observer: self.observer.clone(),
        }
    }

    /// Each mail is committed on its own: after a crash at most one is sent twice.
    fn mail_batching(&self) -> Batching {
        let settings = &self.settings.worker;
        let collect_for = self.settings.notifications.digest;
        if collect_for.is_zero() {
            let partitions = settings.partitions.get();
            return Batching { prefetch: NOTIFIER_PREFETCH, max_batch: 1, partitions, collect_for };
        }
        Batching { prefetch: MAX_DIGEST, max_batch: MAX_DIGEST.into(), partitions: 1, collect_for }
    }

    fn handler(&self, queue: QueueName, queue_kind: QueueKind) -> Arc<dyn BatchHandler> {
        match (queue_kind, queue) {
            (QueueKind::DeadLetter, _) => self.archive.clone(),
            (QueueKind::Main, QueueName::Notifications) => self.notifications.clone(),
            (QueueKind::Main, QueueName::Orders | QueueName::Stock) => self.commands.clone(),
        }
    }

    pub(super) fn api(&self) -> Api {
        let Settings { api, worker, .. } = &self.settings;
        Api {
            listen: api.listen,
            token: api.token.expose().map(str::to_owned),
            timeout: api.timeout,
            keep_alive: api.keep_alive,
            limits: self.limits(),
            body_memory: self.memory().requests(),
            tasks: worker.partitions.get(),
            max_batch: worker.max_batch.get(),
            commands: self.commands.clone(),
            views: self.views(),
            checked: self.checked.clone(),
            watchdog: self.watchdog.clone(),
            database: self.database_log.clone(),
            health: self.health(),
            observer: self.observer.clone(),
        }
    }

    fn memory(&self) -> MemoryShares {
        MemoryShares::new(usize::try_from(self.settings.limits.memory.as_u64()).unwrap_or(usize::MAX))
    }

    fn retention(&self) -> Retention {
        let settings = &self.settings.retention;
        Retention { inbox: settings.inbox, failures: settings.failures, published: settings.published }
    }

    /// The limits of messages.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            body_bytes: self.settings.limits.body_bytes.get(),
            header_bytes: self.settings.limits.header_bytes.get(),
        }
    }

    pub(super) fn outbox(&self) -> PgOutbox {
        PgOutbox::new(self.pg.clone(), &self.settings.namespace, self.commit_signal.clone())
            .recording_published(!self.settings.retention.published.is_zero())
    }

    pub(super) fn relay(&self, outbox: Arc<PgOutbox>) -> Relay {
        Relay {
            outbox: faults::outbox(outbox),
            publisher: faults::publisher(RabbitPublisher::new(self.broker.clone())),
            max_in_flight: self.settings.relay.max_in_flight.get(),
            max_retry_bytes: self.memory().retries(),
            retention: self.retention(),
            database: self.database_log.clone(),
            broker: self.broker_log.clone(),
            observer: self.observer.clone(),
            activity: self.watchdog.relay(),
            gauges: self.gauges(),
        }
    }
}

/// How a consumer forms its batches.
struct Batching {
    prefetch: u16,
    max_batch: usize,
    partitions: usize,
    collect_for: Duration,
}

impl Batching {
    fn of(settings: &Worker, partitions: usize) -> Self {
        let (prefetch, max_batch) = (settings.prefetch.get(), settings.max_batch.get());
        Self { prefetch, max_batch, partitions, collect_for: Duration::ZERO }
    }
}

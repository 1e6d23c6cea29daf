//! The composition root: the only place that knows every layer. It builds the parts and starts the roles.

mod in_files;
mod in_memory;

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
        postgres::{self, Access, Commits, PgLedger, PgOutbox, PgReadModel, PgSchema, PgStore},
        rabbitmq::{Broker, EventPublisher, RabbitQueues, RabbitSender, RabbitTopology},
        smtp::SmtpNotifier,
    },
    config::Settings,
    entrypoints::{api::Api, vitals::Vitals, worker::Worker},
    ports::{
        ledger::Ledger,
        operations::{CommandSender, Declared, ReadModel, Schema, SchemaVersion, Topology},
        outbox::{RefusedEvents, Retention},
        queue::{QueueName, Stage},
    },
    service::{
        decode::Limits,
        delays::{Delays, RetryPolicy},
        message_bus::{MessageBus, Policy},
        outage::Outage,
        relay::Relay,
    },
    views::Views,
};

pub use in_files::{Allocated, Unreadable, allocate_files};
pub use in_memory::{Played, play_in_memory};

/// Notifications that this process holds at most: mail takes its time, and others may have less to do.
const MAILS_IN_HAND: u16 = 20;
/// So many times the time that a handler has. A unit of work that breaks over it is handled once more, one by one, and each
/// command may take its time; one that needs longer than this might as well be stuck.
const STUCK_AFTER_TIMEOUTS: u32 = 60;

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
    access: Access,
    pool: PgPool,
    broker: Broker,
    commits: Arc<Commits>,
    database_outage: Arc<Outage>,
    broker_outage: Arc<Outage>,
    mail_outage: Arc<Outage>,
    vitals: Vitals,
    bus: MessageBus,
}

impl App {
    /// Builds the parts.
    ///
    /// # Errors
    /// A URL or an address in the settings is none.
    pub fn new(settings: Settings) -> anyhow::Result<Self> {
        let Settings { database, broker, smtp, notifications, .. } = &settings;
        let access = Access::new(database.url.expose(), database.max_connections.get(), database.patience)
            .context("database.url (or DATABASE_URL) is not a PostgreSQL URL")?;
        let broker = Broker::new(broker.url.expose(), &settings.namespace)
            .context("broker.url (or AMQP_URL) cannot be used")?;
        let notifier = SmtpNotifier::new(smtp.url.expose(), &notifications.from, &notifications.to)?;
        let (pool, commits) = (access.pool(), Arc::<Commits>::default());
        let store = PgStore::new(pool.clone(), &access, commits.clone());
        Ok(Self {
            bus: MessageBus::new(Arc::new(store), Arc::new(notifier), policy(&settings)),
            pool,
            access,
            broker,
            commits,
            database_outage: Arc::new(Outage::of("the database")),
            broker_outage: Arc::new(Outage::of("the broker")),
            mail_outage: Arc::new(Outage::of("the mail server")),
            vitals: Vitals::default(),
            settings,
        })
    }

    /// The read side.
    #[must_use]
    pub fn views(&self) -> Views {
        Views::new(self.pool.clone(), self.settings.namespace.clone(), self.settings.database.patience)
    }

    /// Exchanges and queues.
    #[must_use]
    pub fn topology(&self) -> impl Topology + use<> {
        RabbitTopology(self.broker.clone())
    }

    /// A way to enqueue commands.
    #[must_use]
    pub fn sender(&self) -> impl CommandSender + use<> {
        RabbitSender::new(self.broker.clone())
    }

    /// The ledger of failures, for operators.
    #[must_use]
    pub fn ledger(&self) -> impl Ledger + use<> {
        PgLedger::new(self.pool.clone(), &self.access)
    }

    /// Events that were set aside, for operators.
    #[must_use]
    pub fn refused_events(&self) -> impl RefusedEvents + use<> {
        PgLedger::new(self.pool.clone(), &self.access)
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
        if !self.schema_fits(stop).await? || !self.topology_stands(stop).await {
            return self.finish(tasks, stop).await; // Told to stop: there may be requests in hand.
        }
        background.spawn(postgres::announce_commits(
            self.pool.clone(),
            self.settings.database.patience,
            self.commits.clone(),
        ));
        for role in roles {
            match role {
                Role::Worker => {
                    self.consume(&[QueueName::Orders, QueueName::Stock], Stage::Work, stop, &mut tasks);
                }
                Role::Notifier => self.consume(&[QueueName::Notifications], Stage::Work, stop, &mut tasks),
                Role::Api => {} // It serves already.
                Role::Archive => self.consume(&QueueName::ALL, Stage::DeadLetters, stop, &mut tasks),
                Role::Relay => {
                    let outbox = Arc::new(PgOutbox::new(self.access.clone(), self.commits.clone()));
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
        let grace = self.settings.worker.grace;
        let overdue = async {
            stop.cancelled().await;
            tokio::time::sleep(grace).await;
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
                warn!(?grace, "not everything was finished; the rest will be redelivered");
                Ok(())
            }
        }
    }

    fn consume(&self, queues: &[QueueName], stage: Stage, stop: &CancellationToken, tasks: &mut JoinSet<()>) {
        for queue in queues {
            let (worker, stop) = (self.worker(*queue, stage), stop.clone());
            tasks.spawn(async move { worker.run(&stop).await });
        }
    }

    fn worker(&self, queue: QueueName, stage: Stage) -> Worker {
        let settings = &self.settings.worker;
        // A mail that was sent is noted at once: a kill in between has it sent again.
        let mails = queue == QueueName::Notifications && stage == Stage::Work;
        let (prefetch, max_batch) =
            if mails { (MAILS_IN_HAND, 1) } else { (settings.prefetch.get(), settings.max_batch.get()) };
        Worker {
            queue,
            stage,
            limits: self.limits(),
            queues: Arc::new(RabbitQueues::new(self.broker.clone(), prefetch)),
            bus: self.bus.clone(),
            lanes: if stage == Stage::Work { settings.lanes.get() } else { 1 },
            max_batch,
            hold: settings.hold,
            finish_within: settings.grace.mul_f64(FINISHES_WITHIN),
            vitals: self.vitals.clone(),
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
            lanes: worker.lanes.get(),
            max_batch: worker.max_batch.get(),
            stuck_after: worker.handler_timeout * STUCK_AFTER_TIMEOUTS,
            bus: self.bus.clone(),
            views: self.views(),
            topology: Arc::new(self.topology()),
            schema: Arc::new(PgSchema::new(self.pool.clone(), &self.access)),
            vitals: self.vitals.clone(),
            database: self.database_outage.clone(),
        }
    }

    fn retention(&self) -> Retention {
        let settings = &self.settings.retention;
        Retention { inbox: settings.inbox, failures: settings.failures }
    }

    fn limits(&self) -> Limits {
        Limits { body: self.settings.limits.body.get(), headers: self.settings.limits.headers.get() }
    }

    fn relay(&self, outbox: Arc<PgOutbox>) -> Relay {
        Relay {
            outbox,
            publisher: Arc::new(EventPublisher::new(self.broker.clone())),
            window: self.settings.relay.window.get(),
            retention: self.retention(),
            database: self.database_outage.clone(),
            broker: self.broker_outage.clone(),
        }
    }

    /// Waits for the database; false if told to stop before it answered.
    async fn schema_fits(&self, stop: &CancellationToken) -> anyhow::Result<bool> {
        let ask = || async { self.schema_version().await.map_err(|error| format!("{error:#}")) };
        match patiently(&self.database_outage, stop, ask).await {
            Some(version) if version.fits() => Ok(true),
            Some(version) => anyhow::bail!("{version}"),
            None => Ok(false),
        }
    }

    /// Waits for the broker; false if told to stop before it answered.
    async fn topology_stands(&self, stop: &CancellationToken) -> bool {
        let topology = self.topology();
        let Some(declared) = patiently(&self.broker_outage, stop, || topology.declare()).await else {
            return false;
        };
        for declared in declared {
            if let Declared::Different(name, how) = declared {
                warn!(name, how, "exists with other arguments and is used as it is");
            }
        }
        true
    }
}

fn policy(settings: &Settings) -> Policy {
    let retry = &settings.retry;
    Policy {
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
async fn patiently<T, E, F>(outage: &Outage, stop: &CancellationToken, ask: impl Fn() -> F) -> Option<T>
where
    F: Future<Output = Result<T, E>>,
    E: std::fmt::Display,
{
    let mut delays = Delays::during_outage();
    loop {
        match stop.run_until_cancelled(ask()).await? {
            Ok(answer) => {
                outage.ends();
                return Some(answer);
            }
            Err(error) => outage.begins(&error),
        }
        let delay = delays.next().unwrap_or(Duration::from_secs(1));
        stop.run_until_cancelled(tokio::time::sleep(delay)).await?;
    }
}

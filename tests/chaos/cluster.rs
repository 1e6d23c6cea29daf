//! Shared by all scenarios: the servers, the numbers of crashes, the recovery times.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    time::Duration,
};

use allocation::faults::SeededBug;
use tokio::process::Command as Call;

use crate::{
    journal,
    program::CliOutput,
    servers::{Postgres, RabbitMq, control_variables},
};

/// The database of each test system is a copy of this one.
const TEMPLATE: &str = "chaos_template";
/// A database role without special rights, and a broker user whose access can be revoked.
pub(crate) const LIMITED_USER: &str = "limited_user";
/// Database roles that identify the sessions of single processes.
pub(crate) const PROCESS_ROLES: [&str; 4] = ["worker_a", "worker_b", "relay_a", "relay_b"];

/// The broker's default consumer timeout and the interval of its check.
const DEFAULT_TIMEOUTS: &str = "application:set_env(rabbit, consumer_timeout, 1800000),
                       application:set_env(rabbit, channel_tick_interval, 60000).";

/// Outages whose recovery is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Recovery {
    /// From the death of a worker until its last message is handled by another.
    Worker,
    /// From the death of the leading relay until the events that were waiting are published.
    Relay,
    /// From the moment PostgreSQL accepts connections until the next command is handled.
    Database,
    /// The same for the broker.
    Broker,
}

/// Shared by all scenarios, which run one after the other.
pub(crate) struct Cluster {
    pub(crate) postgres: Postgres,
    pub(crate) rabbit: RabbitMq,
    /// The bug that every process is started with.
    seeded_bug: Cell<Option<SeededBug>>,
    systems_created: Cell<u32>,
    crashes: RefCell<BTreeMap<String, u32>>,
    recoveries: RefCell<BTreeMap<Recovery, Vec<Duration>>>,
    /// Violations found in test systems that were aborted before the check.
    unreported: RefCell<Vec<String>>,
}

impl Cluster {
    /// Starts the servers and prepares the template database.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let (postgres, rabbit) = tokio::try_join!(Postgres::start(), RabbitMq::start())?;
        let cluster = Self {
            postgres,
            rabbit,
            seeded_bug: Cell::new(None),
            systems_created: Cell::new(0),
            crashes: RefCell::default(),
            recoveries: RefCell::default(),
            unreported: RefCell::default(),
        };
        cluster.prepare_servers().await?;
        Ok(cluster)
    }

    async fn prepare_servers(&self) -> anyhow::Result<()> {
        let limited_user = format!("create role {LIMITED_USER} login;");
        let process_roles = PROCESS_ROLES.map(|name| format!("create role {name} superuser login;")).concat();
        self.postgres.execute("postgres", &(limited_user + &process_roles)).await?;
        let url = self.postgres.url("postgres", TEMPLATE);
        CliOutput::run(&mut self.program("chaos", &url, &["migrate"])).await?.ensure_exit_code(0)?;
        self.postgres.execute(TEMPLATE, &journal::setup_sql()).await?;
        self.rabbit.rabbitmqctl(&["add_user", LIMITED_USER, LIMITED_USER]).await?;
        self.grant_broker_permissions().await
    }

    /// After an aborted scenario: removes every fault, so that the next one starts with both servers in their initial
    /// state.
    pub(crate) async fn repair(&self) -> anyhow::Result<()> {
        let (postgres, rabbit) = (self.repair_postgres().await, self.repair_rabbit().await);
        postgres.and(rabbit)
    }

    async fn repair_postgres(&self) -> anyhow::Result<()> {
        if !self.postgres.accepts_connections().await {
            self.postgres.crash().await?;
        }
        let restore_login = format!("alter role {LIMITED_USER} connection limit -1 login");
        self.postgres.execute("postgres", &restore_login).await
    }

    async fn repair_rabbit(&self) -> anyhow::Result<()> {
        if !self.rabbit.accepts_connections().await {
            self.rabbit.kill()?;
            self.rabbit.run().await?;
        }
        self.rabbit.rabbitmqctl(&["eval", DEFAULT_TIMEOUTS]).await?;
        self.rabbit.rabbitmqctl(&["set_disk_free_limit", "50MB"]).await?;
        self.rabbit.rabbitmqctl(&["change_password", LIMITED_USER, LIMITED_USER]).await?;
        self.grant_broker_permissions().await
    }

    /// Grants all broker permissions to the limited user.
    pub(crate) async fn grant_broker_permissions(&self) -> anyhow::Result<()> {
        self.rabbit.rabbitmqctl(&["set_permissions", LIMITED_USER, ".*", ".*", ".*"]).await.map(drop)
    }

    /// A number that is unique within this run.
    pub(crate) fn next_system_number(&self) -> u32 {
        self.systems_created.set(self.systems_created.get() + 1);
        self.systems_created.get()
    }

    /// Creates a migrated database with stock and the triggers of the journal.
    pub(crate) async fn create_database(&self, name: &str) -> anyhow::Result<()> {
        self.postgres.execute("postgres", &format!("create database {name} template {TEMPLATE}")).await
    }

    pub(crate) async fn drop_database(&self, name: &str) -> anyhow::Result<()> {
        self.postgres.execute("postgres", &format!("drop database if exists {name} with (force)")).await
    }

    /// A command line of the program for a namespace and a database.
    pub(crate) fn program(&self, namespace: &str, database_url: &str, arguments: &[&str]) -> Call {
        let mut command = Call::new(env!("CARGO_BIN_EXE_allocation"));
        for variable in control_variables() {
            command.env_remove(variable);
        }
        command
            .args(arguments)
            .env("DATABASE_URL", database_url)
            .env("AMQP_URL", self.rabbit.url())
            .env("ALLOCATION__NAMESPACE", namespace)
            .kill_on_drop(true);
        if let Some(bug) = self.seeded_bug.get() {
            command.env("SEEDED_BUG", bug.name());
        }
        command
    }

    /// Every process that starts from now on has this bug, or none.
    pub(crate) fn seed_bug(&self, bug: Option<SeededBug>) {
        self.seeded_bug.set(bug);
    }

    /// How long a scenario waits for work to be done. With a seeded bug it may never be done.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(if self.seeded_bug.get().is_some() { 8 } else { 60 })
    }

    /// Keeps the violations of a test system that is not checked any more.
    pub(crate) fn record_unreported(&self, violations: Vec<String>) {
        self.unreported.borrow_mut().extend(violations);
    }

    /// The violations kept since the last call.
    pub(crate) fn take_unreported(&self) -> Vec<String> {
        self.unreported.take()
    }

    /// Counts a crash at the point with this name.
    pub(crate) fn record_crash(&self, point: String) {
        *self.crashes.borrow_mut().entry(point).or_default() += 1;
    }

    /// The number of crashes at each crash point.
    pub(crate) fn crashes(&self) -> BTreeMap<String, u32> {
        self.crashes.borrow().clone()
    }

    /// Records the duration of a recovery.
    pub(crate) fn record_recovery(&self, kind: Recovery, duration: Duration) {
        self.recoveries.borrow_mut().entry(kind).or_default().push(duration);
    }

    pub(crate) fn recoveries(&self) -> BTreeMap<Recovery, Vec<Duration>> {
        self.recoveries.borrow().clone()
    }
}

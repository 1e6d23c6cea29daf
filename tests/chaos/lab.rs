//! What all scenarios share: the servers, the count of crash points, the times of recovery.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    time::Duration,
};

use allocation::crash_points::{CrashPoint, SeededBug};
use tokio::process::Command as Call;

use crate::{
    journal,
    program::Answer,
    servers::{Postgres, RabbitMq, foreign_variables},
};

/// Every world's database begins as a copy of this one.
const TEMPLATE: &str = "chaos_template";
/// A role without special rights, and a user of the broker that can be locked out.
pub(crate) const CLERK: &str = "clerk";
/// Roles by which sessions of single processes are told apart.
pub(crate) const NAMED: [&str; 4] = ["worker_a", "worker_b", "relay_a", "relay_b"];

/// How long the broker waits for acknowledgements, and how often it looks, where nobody has changed it.
const PATIENT: &str = "application:set_env(rabbit, consumer_timeout, 1800000),
                       application:set_env(rabbit, channel_tick_interval, 60000).";

/// Kinds of outages whose ends are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Recovery {
    /// From the death of a worker to the end of its last message, elsewhere.
    Worker,
    /// From the death of the leading relay to the publication of what waited then.
    Relay,
    /// From the moment PostgreSQL accepts again to the next command that is handled.
    Database,
    /// The same of the broker.
    Broker,
}

/// Shared by all scenarios, which run one after the other.
pub(crate) struct Lab {
    pub(crate) postgres: Postgres,
    pub(crate) rabbit: RabbitMq,
    /// A mistake that every process is to make.
    planted: Cell<Option<SeededBug>>,
    worlds: Cell<u32>,
    crashes: RefCell<BTreeMap<CrashPoint, u32>>,
    recoveries: RefCell<BTreeMap<Recovery, Vec<Duration>>>,
    /// What was found wrong in worlds that broke off before they were judged.
    unjudged: RefCell<Vec<String>>,
}

impl Lab {
    /// Starts the servers and prepares what every world begins with.
    pub(crate) async fn open() -> anyhow::Result<Self> {
        let (postgres, rabbit) = tokio::try_join!(Postgres::start(), RabbitMq::start())?;
        let lab = Self {
            postgres,
            rabbit,
            planted: Cell::new(None),
            worlds: Cell::new(0),
            crashes: RefCell::default(),
            recoveries: RefCell::default(),
            unjudged: RefCell::default(),
        };
        lab.prepare().await?;
        Ok(lab)
    }

    async fn prepare(&self) -> anyhow::Result<()> {
        let clerk = format!("create role {CLERK} login;");
        let named = NAMED.map(|name| format!("create role {name} superuser login;")).concat();
        self.postgres.administer("postgres", &(clerk + &named)).await?;
        let url = self.postgres.url("postgres", TEMPLATE);
        Answer::to(&mut self.program("chaos", &url, &["migrate"])).await?.exits(0)?;
        self.postgres.administer(TEMPLATE, &journal::preparation()).await?;
        self.rabbit.control(&["add_user", CLERK, CLERK]).await?;
        self.let_clerk_in().await
    }

    /// After a scenario that broke off in the middle of a fault: the next one finds both servers at work, and as they
    /// were in the beginning.
    pub(crate) async fn mend(&self) -> anyhow::Result<()> {
        let (postgres, rabbit) = (self.mend_postgres().await, self.mend_rabbit().await);
        postgres.and(rabbit)
    }

    async fn mend_postgres(&self) -> anyhow::Result<()> {
        if !self.postgres.answers().await {
            self.postgres.crash().await?;
        }
        let welcome = format!("alter role {CLERK} connection limit -1 login");
        self.postgres.administer("postgres", &welcome).await
    }

    async fn mend_rabbit(&self) -> anyhow::Result<()> {
        if !self.rabbit.answers().await {
            self.rabbit.kill()?;
            self.rabbit.run().await?;
        }
        self.rabbit.control(&["eval", PATIENT]).await?;
        self.rabbit.control(&["set_disk_free_limit", "50MB"]).await?;
        self.rabbit.control(&["change_password", CLERK, CLERK]).await?;
        self.let_clerk_in().await
    }

    /// Gives the broker's second user all rights.
    pub(crate) async fn let_clerk_in(&self) -> anyhow::Result<()> {
        self.rabbit.control(&["set_permissions", CLERK, ".*", ".*", ".*"]).await.map(drop)
    }

    /// A number that no other world has.
    pub(crate) fn next_world(&self) -> u32 {
        self.worlds.set(self.worlds.get() + 1);
        self.worlds.get()
    }

    /// Makes a database that is migrated, stocked and watched.
    pub(crate) async fn create_database(&self, name: &str) -> anyhow::Result<()> {
        self.postgres.administer("postgres", &format!("create database {name} template {TEMPLATE}")).await
    }

    pub(crate) async fn drop_database(&self, name: &str) -> anyhow::Result<()> {
        self.postgres.administer("postgres", &format!("drop database if exists {name} with (force)")).await
    }

    /// A call of the program for a namespace and a database.
    pub(crate) fn program(&self, namespace: &str, database_url: &str, arguments: &[&str]) -> Call {
        let mut command = Call::new(env!("CARGO_BIN_EXE_allocation"));
        for variable in foreign_variables() {
            command.env_remove(variable);
        }
        command
            .args(arguments)
            .env("DATABASE_URL", database_url)
            .env("AMQP_URL", self.rabbit.url())
            .env("ALLOCATION__NAMESPACE", namespace)
            .kill_on_drop(true);
        if let Some(bug) = self.planted.get() {
            command.env("PLANTED_BUG", bug.name());
        }
        command
    }

    /// From now on every process makes this mistake, or none.
    pub(crate) fn plant(&self, bug: Option<SeededBug>) {
        self.planted.set(bug);
    }

    /// How long work may take to be done. With a mistake planted it may never be.
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs(if self.planted.get().is_some() { 8 } else { 60 })
    }

    /// Notes what was found wrong in a world that nobody judges any more.
    pub(crate) fn note_unjudged(&self, complaints: Vec<String>) {
        self.unjudged.borrow_mut().extend(complaints);
    }

    /// What was noted of such worlds since the last call.
    pub(crate) fn take_unjudged(&self) -> Vec<String> {
        self.unjudged.take()
    }

    /// Notes that a process died of a crash point.
    pub(crate) fn crashed(&self, point: CrashPoint) {
        *self.crashes.borrow_mut().entry(point).or_default() += 1;
    }

    /// How often processes died of each crash point.
    pub(crate) fn crashes(&self) -> BTreeMap<CrashPoint, u32> {
        self.crashes.borrow().clone()
    }

    /// Notes how long a recovery took.
    pub(crate) fn recovered(&self, kind: Recovery, took: Duration) {
        self.recoveries.borrow_mut().entry(kind).or_default().push(took);
    }

    pub(crate) fn recoveries(&self) -> BTreeMap<Recovery, Vec<Duration>> {
        self.recoveries.borrow().clone()
    }
}

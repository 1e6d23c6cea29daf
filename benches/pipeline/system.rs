//! A system for one measurement: a database, a namespace, and processes of the program.

use std::time::{Duration, Instant};

use anyhow::ensure;
use sqlx::{Connection as _, PgConnection};
use tokio::process::Command;

use crate::{
    broker::{self, Observer, Sender},
    process::Running,
    servers::BenchServers,
};

const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// The batches are created within seconds.
const STOCK_TIMEOUT: Duration = Duration::from_mins(1);
/// The database of the current measurement.
const MEASURED: &str = "measured";

/// The program's file.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_allocation");

/// A database and a namespace.
pub(crate) struct BenchSystem<'servers> {
    servers: &'servers BenchServers,
    namespace: String,
    database: String,
}

impl<'servers> BenchSystem<'servers> {
    /// A system with a copy of a database, for one measurement.
    pub(crate) async fn with_copy_of(
        servers: &'servers BenchServers,
        template: &str,
    ) -> anyhow::Result<Self> {
        servers.drop_database(MEASURED).await?;
        servers.copy(template, MEASURED).await?;
        let system = Self::on(servers, MEASURED.into()).await?;
        system.call("topology").await?;
        Ok(system)
    }

    /// A system on a database that need not exist, in a new namespace without the remains of an interrupted run.
    pub(crate) async fn on(servers: &'servers BenchServers, database: String) -> anyhow::Result<Self> {
        let namespace = servers.next_namespace();
        broker::remove(&servers.publishing, &namespace).await?;
        Ok(Self { servers, namespace, database })
    }

    /// Runs a subcommand to its end.
    pub(crate) async fn call(&self, subcommand: &str) -> anyhow::Result<()> {
        self.call_with(&[subcommand]).await
    }

    /// Runs a call of the command line to its end.
    pub(crate) async fn call_with(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let output = self.program(arguments).output().await?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "allocation {arguments:?} ended with {}:\n{stderr}", output.status);
        Ok(())
    }

    /// Starts a worker with its relay, with settings that differ from the defaults.
    pub(crate) fn run(&self, settings: &[(&str, &str)]) -> anyhow::Result<Running> {
        let mut program = self.program(&["run", "--only", "worker,relay"]);
        Running::start(program.envs(settings.iter().copied()))
    }

    fn program(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(arguments)
            .env("DATABASE_URL", self.servers.url(&self.database).as_str())
            .env("AMQP_URL", &self.servers.amqp_url)
            .env("ALLOCATION__NAMESPACE", &self.namespace)
            .kill_on_drop(true);
        command
    }

    /// The short name of its database.
    pub(crate) fn database(&self) -> &str {
        &self.database
    }

    /// A name with its namespace.
    pub(crate) fn named(&self, name: &str) -> String {
        format!("{}.{name}", self.namespace)
    }

    pub(crate) fn servers(&self) -> &'servers BenchServers {
        self.servers
    }

    /// A sender of commands.
    pub(crate) async fn sender(&self) -> anyhow::Result<Sender> {
        Sender::open(&self.servers.publishing, &self.namespace).await
    }

    /// A subscriber of events.
    pub(crate) async fn observer(&self) -> anyhow::Result<Observer> {
        Observer::bind(&self.servers.consuming, &self.namespace).await
    }

    /// A session with its database.
    pub(crate) async fn session(&self) -> anyhow::Result<PgConnection> {
        Ok(PgConnection::connect(self.servers.url(&self.database).as_str()).await?)
    }

    /// Waits until the number of products is reached.
    pub(crate) async fn wait_for_products(&self, products: u32) -> anyhow::Result<()> {
        let (mut session, begin) = (self.session().await?, Instant::now());
        loop {
            let count: i64 =
                sqlx::query_scalar("select count(*) from products").fetch_one(&mut session).await?;
            if count >= i64::from(products) {
                return Ok(session.close().await?);
            }
            ensure!(
                begin.elapsed() < STOCK_TIMEOUT,
                "{count} of {products} products after {STOCK_TIMEOUT:?}"
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Removes the namespace and keeps the database.
    pub(crate) async fn remove_namespace(self) -> anyhow::Result<()> {
        broker::remove(&self.servers.publishing, &self.namespace).await
    }

    /// Removes the namespace and the database.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        self.servers.drop_database(&self.database).await?;
        self.remove_namespace().await
    }
}

//! What one measurement has for itself: a database, a namespace, and processes of the program that know no other.

use std::time::{Duration, Instant};

use anyhow::ensure;
use sqlx::{Connection as _, PgConnection};
use tokio::process::Command;

use crate::{
    broker::{self, Observer, Sender},
    lab::Lab,
    process::Running,
};

/// How often the database is asked for what is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Batches are created within a second or two.
const STOCKED_WITHIN: Duration = Duration::from_mins(1);

/// The program's file.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_allocation");

/// A database and a namespace.
pub(crate) struct World<'lab> {
    lab: &'lab Lab,
    namespace: String,
    database: String,
}

impl<'lab> World<'lab> {
    /// A world without what may be left in its namespace of a run that was killed.
    pub(crate) async fn on(lab: &'lab Lab, namespace: String, database: String) -> anyhow::Result<Self> {
        broker::remove(&lab.publishing, &namespace).await?;
        Ok(Self { lab, namespace, database })
    }

    /// Calls a subcommand and waits for its end.
    pub(crate) async fn call(&self, subcommand: &str) -> anyhow::Result<()> {
        let output = self.program(&[subcommand]).output().await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "allocation {subcommand} ended with {}:\n{said}", output.status);
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
            .env("DATABASE_URL", self.lab.url(&self.database).as_str())
            .env("AMQP_URL", &self.lab.amqp_url)
            .env("ALLOCATION__NAMESPACE", &self.namespace)
            .kill_on_drop(true);
        command
    }

    /// The short name of its database.
    pub(crate) fn database(&self) -> &str {
        &self.database
    }

    /// The full name of something in its namespace.
    pub(crate) fn named(&self, name: &str) -> String {
        format!("{}.{name}", self.namespace)
    }

    /// The servers it is on.
    pub(crate) fn lab(&self) -> &'lab Lab {
        self.lab
    }

    /// A sender of commands.
    pub(crate) async fn sender(&self) -> anyhow::Result<Sender> {
        Sender::open(&self.lab.publishing, &self.namespace).await
    }

    /// A subscriber of events.
    pub(crate) async fn observer(&self) -> anyhow::Result<Observer> {
        Observer::bind(&self.lab.listening, &self.namespace).await
    }

    /// A session with its database.
    pub(crate) async fn session(&self) -> anyhow::Result<PgConnection> {
        Ok(PgConnection::connect(self.lab.url(&self.database).as_str()).await?)
    }

    /// Waits until so many products exist.
    pub(crate) async fn wait_for_products(&self, products: u32) -> anyhow::Result<()> {
        let (mut session, begin) = (self.session().await?, Instant::now());
        loop {
            let count: i64 =
                sqlx::query_scalar("select count(*) from products").fetch_one(&mut session).await?;
            if count >= i64::from(products) {
                return Ok(session.close().await?);
            }
            ensure!(
                begin.elapsed() < STOCKED_WITHIN,
                "{count} of {products} products after {STOCKED_WITHIN:?}"
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Removes the namespace and keeps the database.
    pub(crate) async fn leave(self) -> anyhow::Result<()> {
        broker::remove(&self.lab.publishing, &self.namespace).await
    }

    /// Removes both.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        self.lab.drop_database(&self.database).await?;
        self.leave().await
    }
}

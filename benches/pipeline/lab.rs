//! The servers, and everything that is made on them: databases and namespaces of our own.

use std::{
    env,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::Context as _;
use lapin::{Connection, ConnectionProperties};
use serde_json::{Map, Value};
use sqlx::{PgPool, postgres::PgPoolOptions};
use url::Url;

use crate::{broker, commands, growth::Growth, measurement::Measurement, say, world::World};

/// Begins the name of every database of ours, and of no other: what is left of a run that was killed is found by it.
const DATABASE: &str = "allocation_bench_pipeline";
/// Begins every namespace of ours.
const NAMESPACE: &str = "bench.pipeline";
/// The database in which all batches exist, and nothing else does.
pub(crate) const STOCKED: &str = "stocked";

/// The servers.
pub(crate) struct Lab {
    database_url: Url,
    /// The broker, as the program is told of it.
    pub(crate) amqp_url: String,
    /// A database that is nobody's, to make and drop others from.
    pub(crate) server: PgPool,
    /// Connections that publish and those that listen are apart, as the program has them.
    pub(crate) publishing: Connection,
    pub(crate) listening: Connection,
    worlds: AtomicU32,
}

impl Lab {
    pub(crate) async fn open() -> anyhow::Result<Self> {
        let database_url =
            env::var("DATABASE_URL").unwrap_or_else(|_| "postgres://postgres@127.0.0.1:5432/postgres".into());
        let database_url: Url = database_url.parse().context("DATABASE_URL is not a URL")?;
        let amqp_url =
            env::var("AMQP_URL").unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672/%2f".into());
        // What the URL names may not exist yet.
        let server = at(&database_url, "postgres");
        let server = PgPoolOptions::new().max_connections(1).connect(server.as_str()).await;
        let lab = Self {
            server: server.context("the database called postgres cannot be entered")?,
            publishing: connect(&amqp_url).await?,
            listening: connect(&amqp_url).await?,
            database_url,
            amqp_url,
            worlds: AtomicU32::new(0),
        };
        lab.drop_databases().await?;
        Ok(lab)
    }

    /// Makes the databases that the measurements begin with.
    pub(crate) async fn prepare(&self, measurements: &[Measurement]) -> anyhow::Result<()> {
        say("preparing: a database with a batch of each SKU");
        self.stock().await?;
        for growth in measurements.iter().filter_map(|measurement| measurement.growth()) {
            say(&format!("preparing: a database with {}", growth.name()));
            self.grow(growth).await?;
        }
        Ok(())
    }

    /// The batches are created by the worker itself, so that nothing in the database is of our making.
    async fn stock(&self) -> anyhow::Result<()> {
        let world = World::on(self, self.next_namespace(), STOCKED.into()).await?;
        world.call("migrate").await?;
        world.call("topology").await?;
        let running = world.run(&[])?;
        world.sender().await?.send_all(commands::batches()).await?;
        world.wait_for_products(commands::SKUS).await?;
        running.stop().await?;
        world.leave().await
    }

    async fn grow(&self, growth: Growth) -> anyhow::Result<()> {
        self.copy(STOCKED, growth.template()).await?;
        let pool =
            PgPoolOptions::new().max_connections(1).connect(self.url(growth.template()).as_str()).await?;
        growth.fill(&pool).await?;
        pool.close().await;
        Ok(())
    }

    /// A world of its own for one measurement, with a copy of a database.
    pub(crate) async fn world(&self, template: &str) -> anyhow::Result<World<'_>> {
        let name = "measured";
        self.drop_database(name).await?;
        self.copy(template, name).await?;
        let world = World::on(self, self.next_namespace(), name.into()).await?;
        world.call("topology").await?;
        Ok(world)
    }

    /// None is used twice in a run: a quorum queue takes its time to be gone.
    fn next_namespace(&self) -> String {
        namespace(self.worlds.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// A copy file by file begins and ends with a checkpoint, so every measurement starts with a database that is equally
    /// clean.
    pub(crate) async fn copy(&self, template: &str, name: &str) -> anyhow::Result<()> {
        let (template, name) = (database(template), database(name));
        let copy = format!("create database {name} template {template} strategy file_copy");
        sqlx::raw_sql(&copy).execute(&self.server).await.with_context(|| format!("copying {template}"))?;
        Ok(())
    }

    /// Where a database of ours is.
    pub(crate) fn url(&self, name: &str) -> Url {
        at(&self.database_url, &database(name))
    }

    /// Drops a database of ours, whoever is in it.
    pub(crate) async fn drop_database(&self, name: &str) -> anyhow::Result<()> {
        self.drop_named(&database(name)).await
    }

    /// Transactions that ended in a database of ours so far. Asked from elsewhere, the question itself is none of them.
    pub(crate) async fn transactions(&self, name: &str) -> anyhow::Result<i64> {
        let counted = "select xact_commit + xact_rollback from pg_stat_database where datname = $1";
        Ok(sqlx::query_scalar(counted).bind(database(name)).fetch_one(&self.server).await?)
    }

    /// Statements that were executed in a database of ours so far; none if the server does not count them.
    pub(crate) async fn statements(&self, name: &str) -> Option<i64> {
        let counted = "select coalesce(sum(s.calls), 0)::bigint from pg_stat_statements s
                       join pg_database d on d.oid = s.dbid where d.datname = $1";
        sqlx::query_scalar(counted).bind(database(name)).fetch_one(&self.server).await.ok()
    }

    /// What the figures depend on.
    pub(crate) async fn describe(&self) -> anyhow::Result<Map<String, Value>> {
        let settings: Vec<(String, String)> = sqlx::query_as(
            "select name, current_setting(name) from pg_settings
             where name in ('server_version', 'fsync', 'synchronous_commit', 'shared_buffers', 'max_wal_size')",
        )
        .fetch_all(&self.server)
        .await?;
        Ok(settings.into_iter().map(|(name, setting)| (name, setting.into())).collect())
    }

    /// Removes everything that any world has left, on a new connection: the old ones may be the trouble.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        let databases = self.drop_databases().await;
        let connection = connect(&self.amqp_url).await?;
        for number in 1..=self.worlds.load(Ordering::Relaxed) {
            broker::remove(&connection, &namespace(number)).await?;
        }
        databases
    }

    async fn drop_databases(&self) -> anyhow::Result<()> {
        let names: Vec<String> =
            sqlx::query_scalar("select datname from pg_database where starts_with(datname, $1)")
                .bind(DATABASE)
                .fetch_all(&self.server)
                .await?;
        for name in names {
            self.drop_named(&name).await?;
        }
        Ok(())
    }

    async fn drop_named(&self, database: &str) -> anyhow::Result<()> {
        let drop = format!("drop database if exists {database} with (force)");
        sqlx::raw_sql(&drop).execute(&self.server).await.with_context(|| format!("dropping {database}"))?;
        Ok(())
    }
}

fn database(name: &str) -> String {
    format!("{DATABASE}_{name}")
}

fn namespace(number: u32) -> String {
    format!("{NAMESPACE}.{number}")
}

fn at(url: &Url, database: &str) -> Url {
    let mut url = url.clone();
    url.set_path(database);
    url
}

async fn connect(url: &str) -> anyhow::Result<Connection> {
    let properties = ConnectionProperties::default().with_connection_name(NAMESPACE.into());
    Connection::connect(url, properties).await.context("the broker cannot be reached")
}

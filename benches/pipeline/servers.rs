//! The servers, and the databases and namespaces of the benchmark on them.

use std::{
    env,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::Context as _;
use lapin::{Connection, ConnectionProperties};
use serde_json::{Map, Value};
use sqlx::{Connection as _, PgConnection, PgPool, postgres::PgPoolOptions};
use url::Url;

use crate::broker;

/// The prefix of every database of the benchmark; databases with it that an interrupted run left are dropped.
const DATABASE: &str = "allocation_bench_pipeline";
/// The prefix of every namespace.
const NAMESPACE: &str = "bench.pipeline";
/// The database with a batch of each SKU and nothing else.
pub(crate) const STOCKED: &str = "stocked";

/// Connections to the servers.
pub(crate) struct BenchServers {
    database_url: Url,
    pub(crate) amqp_url: String,
    /// The database `postgres`, from which others are created and dropped.
    pub(crate) server: PgPool,
    /// Publishers and consumers have separate connections, as in the program.
    pub(crate) publishing: Connection,
    pub(crate) consuming: Connection,
    namespaces: AtomicU32,
}

impl BenchServers {
    pub(crate) async fn open() -> anyhow::Result<Self> {
        let database_url =
            env::var("DATABASE_URL").unwrap_or_else(|_| "postgres://postgres@127.0.0.1:5432/postgres".into());
        let database_url: Url = database_url.parse().context("DATABASE_URL is not a URL")?;
        let amqp_url =
            env::var("AMQP_URL").unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672/%2f".into());
        // The database of the URL may not exist.
        let server = with_database(&database_url, "postgres");
        let server = PgPoolOptions::new().max_connections(1).connect(server.as_str()).await;
        let servers = Self {
            server: server.context("cannot connect to the database postgres")?,
            publishing: connect(&amqp_url).await?,
            consuming: connect(&amqp_url).await?,
            database_url,
            amqp_url,
            namespaces: AtomicU32::new(0),
        };
        servers.drop_databases().await?;
        Ok(servers)
    }

    /// A new namespace. None is used twice in a run, since a quorum queue is deleted with a delay.
    pub(crate) fn next_namespace(&self) -> String {
        namespace(self.namespaces.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Copies a database. The file copy begins and ends with a checkpoint, so that every measurement starts with the same
    /// amount of unwritten data.
    pub(crate) async fn copy(&self, template: &str, name: &str) -> anyhow::Result<()> {
        let (template, name) = (database(template), database(name));
        let copy = format!("create database {name} template {template} strategy file_copy");
        sqlx::raw_sql(&copy).execute(&self.server).await.with_context(|| format!("copying {template}"))?;
        // The copy belongs to the namespace of the first process that runs on it.
        let mut session = PgConnection::connect(self.url_of(&name).as_str()).await?;
        sqlx::raw_sql("delete from installation").execute(&mut session).await?;
        Ok(session.close().await?)
    }

    /// The URL of a database of the benchmark.
    pub(crate) fn url(&self, name: &str) -> Url {
        self.url_of(&database(name))
    }

    fn url_of(&self, full_name: &str) -> Url {
        with_database(&self.database_url, full_name)
    }

    /// Drops a database of the benchmark, and terminates its sessions.
    pub(crate) async fn drop_database(&self, name: &str) -> anyhow::Result<()> {
        self.drop_named(&database(name)).await
    }

    /// The number of transactions that have ended in a database of the benchmark. The query itself runs in another one.
    pub(crate) async fn transactions(&self, name: &str) -> anyhow::Result<i64> {
        let count = "select xact_commit + xact_rollback from pg_stat_database where datname = $1";
        Ok(sqlx::query_scalar(count).bind(database(name)).fetch_one(&self.server).await?)
    }

    /// The number of statements that were executed in a database of the benchmark; `None` without `pg_stat_statements`.
    pub(crate) async fn statements(&self, name: &str) -> Option<i64> {
        let count = "select coalesce(sum(s.calls), 0)::bigint from pg_stat_statements s
                     join pg_database d on d.oid = s.dbid where d.datname = $1";
        sqlx::query_scalar(count).bind(database(name)).fetch_one(&self.server).await.ok()
    }

    /// The settings of PostgreSQL that the results depend on.
    pub(crate) async fn describe(&self) -> anyhow::Result<Map<String, Value>> {
        let settings: Vec<(String, String)> = sqlx::query_as(
            "select name, current_setting(name) from pg_settings
             where name in ('server_version', 'fsync', 'synchronous_commit', 'shared_buffers', 'max_wal_size')",
        )
        .fetch_all(&self.server)
        .await?;
        Ok(settings.into_iter().map(|(name, setting)| (name, setting.into())).collect())
    }

    /// Removes every database and namespace, on a new connection: the existing ones may have failed.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        let databases = self.drop_databases().await;
        let connection = connect(&self.amqp_url).await?;
        for number in 1..=self.namespaces.load(Ordering::Relaxed) {
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

fn with_database(url: &Url, database: &str) -> Url {
    let mut url = url.clone();
    url.set_path(database);
    url
}

async fn connect(url: &str) -> anyhow::Result<Connection> {
    let properties = ConnectionProperties::default().with_connection_name(NAMESPACE.into());
    Connection::connect(url, properties).await.context("cannot connect to the broker")
}

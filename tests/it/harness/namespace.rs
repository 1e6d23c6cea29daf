//! A database and a namespace for each test, on the servers that all tests share.
//!
//! A test removes both in `Drop`, also after a failure. The next test that starts removes what a killed test process left.
//! A lock on the database server shows which databases are in use.

use std::{fs, io::Write as _, process::Command, thread, time::Duration};

use lapin::{
    Connection, ConnectionProperties,
    options::{ExchangeDeleteOptions, QueueDeleteOptions},
};
use sqlx::{Connection as _, PgConnection};
use tokio::time::timeout;
use url::Url;
use uuid::Uuid;

/// The queues of a namespace. The tests declare the last two.
const QUEUES: [&str; 11] = [
    "orders",
    "orders.dlq",
    "orders.unreadable",
    "stock",
    "stock.dlq",
    "stock.unreadable",
    "notifications",
    "notifications.dlq",
    "notifications.unreadable",
    "observer",
    "full",
];
const EXCHANGES: [&str; 4] = ["commands", "events", "dead-letters", "retries"];
/// The prefix of the database names; the rest of a name is unique.
const DATABASE_PREFIX: &str = "it_system_";
/// The deadline for the removal.
const REMOVED_WITHIN: Duration = Duration::from_secs(30);

/// The broker that all tests share.
pub(crate) fn amqp_url() -> String {
    std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672/%2f".into())
}

/// A database on the server that all tests share.
pub(super) fn database_url(database: &str) -> String {
    let url = std::env::var("DATABASE_URL")
        .unwrap_or_else(|_| "postgres://postgres@127.0.0.1:5432/postgres".into());
    let mut url = Url::parse(&url).expect("DATABASE_URL is a URL");
    url.set_path(&format!("/{database}"));
    url.into()
}

/// A connection to the broker.
pub(super) async fn connect_to_broker() -> Connection {
    let connected = Connection::connect(&amqp_url(), ConnectionProperties::default()).await;
    connected.expect("RabbitMQ is available")
}

/// A name that no other test has.
#[expect(clippy::disallowed_methods, reason = "the names are random")]
pub(crate) fn unique() -> String {
    // The end of the id is its random part.
    Uuid::now_v7().simple().to_string().split_off(20)
}

/// A database and a namespace for one test.
pub(super) struct TestNamespace {
    unique: String,
    /// The session that holds the lock while the database is in use.
    lock: Option<PgConnection>,
}

impl TestNamespace {
    /// Removes what killed tests left, then creates a database with a unique name.
    pub(super) async fn create() -> Self {
        let connected = PgConnection::connect(&database_url("postgres")).await;
        let mut connection = connected.expect("PostgreSQL is available");
        remove_abandoned(&mut connection).await.expect("abandoned databases can be removed");
        let unique = unique();
        let locked = try_lock(&mut connection, &database(&unique)).await.expect("the lock can be acquired");
        assert!(locked, "two tests have the same name: {unique}");
        let mut namespace = Self { unique, lock: Some(connection) };
        let statement = format!("create database {}", namespace.database());
        let connection = namespace.lock.as_mut().expect("the lock is held until the removal");
        sqlx::raw_sql(&statement).execute(connection).await.expect("databases can be created");
        namespace
    }

    pub(super) fn database(&self) -> String {
        database(&self.unique)
    }

    pub(super) fn namespace(&self) -> String {
        namespace(&self.unique)
    }

    /// Removes everything.
    pub(super) async fn remove(&mut self) {
        if let Some(mut lock) = self.lock.take() {
            remove(&mut lock, &self.unique).await.expect("the test's database and queues can be removed");
        }
    }
}

impl Drop for TestNamespace {
    /// A test that fails does not call [`TestNamespace::remove`]. Its runtime is blocked here, so another runtime is used.
    fn drop(&mut self) {
        if self.lock.is_none() {
            return;
        }
        let unique = self.unique.clone();
        let removal = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let removed = async {
                    let mut connection = PgConnection::connect(&database_url("postgres")).await?;
                    remove(&mut connection, &unique).await
                };
                timeout(REMOVED_WITHIN, removed).await?
            })
        });
        let outcome = removal.join().unwrap_or_else(|_| Err("the removal panicked".into()));
        if let Err(error) = outcome {
            let left = format!("{} and {} may be left: {error}", self.database(), self.namespace());
            let _ = writeln!(std::io::stderr().lock(), "{left}");
        }
    }
}

type Removed = Result<(), Box<dyn std::error::Error + Send + Sync>>;

fn database(unique: &str) -> String {
    format!("{DATABASE_PREFIX}{unique}")
}

fn namespace(unique: &str) -> String {
    format!("it.{unique}")
}

/// The lock belongs to the session, so it is free as soon as the test process has ended.
async fn try_lock(connection: &mut PgConnection, database: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select pg_try_advisory_lock(hashtextextended($1, 0))")
        .bind(database)
        .fetch_one(connection)
        .await
}

async fn remove_abandoned(connection: &mut PgConnection) -> Removed {
    let databases: Vec<String> =
        sqlx::query_scalar("select datname::text from pg_database where starts_with(datname::text, $1)")
            .bind(DATABASE_PREFIX)
            .fetch_all(&mut *connection)
            .await?;
    for database in databases {
        if try_lock(connection, &database).await? {
            remove(connection, &database[DATABASE_PREFIX.len()..]).await?;
            sqlx::query("select pg_advisory_unlock(hashtextextended($1, 0))")
                .bind(&database)
                .execute(&mut *connection)
                .await?;
        }
    }
    Ok(())
}

/// Kills the processes of a test and removes its queues, exchanges and database. The database is last: while it exists, the
/// next test tries the removal again.
async fn remove(connection: &mut PgConnection, unique: &str) -> Removed {
    let namespace = namespace(unique);
    kill_processes(&namespace);
    let broker = Connection::connect(&amqp_url(), ConnectionProperties::default()).await?;
    let channel = broker.create_channel().await?;
    for queue in QUEUES {
        let name = format!("{namespace}.{queue}");
        channel.queue_delete(name.into(), QueueDeleteOptions::default()).await?;
    }
    for exchange in EXCHANGES {
        let name = format!("{namespace}.{exchange}");
        channel.exchange_delete(name.into(), ExchangeDeleteOptions::default()).await?;
    }
    let _ = broker.close(200, "done".into()).await;
    let database = database(unique);
    // A role of the same name, if the test has made one.
    for statement in [
        format!("drop database if exists {database} with (force)"),
        format!("drop role if exists {database}"),
    ] {
        sqlx::raw_sql(&statement).execute(&mut *connection).await?;
    }
    Ok(())
}

/// The processes on this machine with the namespace in their environment.
pub(crate) fn processes_of(namespace: &str) -> Vec<u32> {
    let variable = format!("ALLOCATION__NAMESPACE={namespace}");
    let uses_it = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == variable.as_bytes())
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(uses_it).collect()
}

fn kill_processes(namespace: &str) {
    for pid in processes_of(namespace) {
        let _ = Command::new("sh").arg("-c").arg(format!("kill -s KILL {pid}")).status();
    }
}

//! `allocation migrate`: creates the database if it is missing, updates its schema, and records its namespace.
//!
//! A migration waits for a lock for a few seconds only: everything that uses the table queues behind it. Then it pauses and
//! tries again.

use std::time::Duration;

use sqlx::{
    Connection as _, Executor as _, PgConnection,
    migrate::{Migrate as _, MigrateError},
};

use crate::{
    pg::{PgConfig, SessionOptions, sqlstate},
    ports::installation::{DatabaseState, SchemaVersion, UnusableDatabase},
};

use super::{
    blockers, installation, leadership,
    schema::{self, expected_version},
    schema_rights,
};

/// The number of tries: with their pauses they take five minutes.
const TRIES: usize = 60;
/// The pause between two tries, in which the statements that waited behind the migration are executed.
const PAUSE: Duration = Duration::from_secs(3);
/// The databases that `create database` may be executed from.
const MAINTENANCE_DATABASES: [&str; 2] = ["postgres", "template1"];

/// What `migrate` is asked to do.
pub struct Migration<'a> {
    /// The namespace that is recorded.
    pub namespace: &'a str,
    /// Whether another recorded namespace is replaced.
    pub rename: bool,
    /// Receives a text each time another session delays the migration.
    pub on_delay: &'a (dyn Fn(&str) + Send + Sync),
}

/// Why the schema was not migrated.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// The program cannot use the database.
    #[error(transparent)]
    Unusable(#[from] UnusableDatabase),
    /// The namespace was to be renamed under a running relay.
    #[error(
        "a relay of the namespace {0:?} is running on this database; stop all processes before the namespace is renamed"
    )]
    RelayRunning(String),
    /// Another session held a lock all the time.
    #[error(
        "{0}; end that session with `select pg_terminate_backend(PID)`, or wait until it ends, and run it again"
    )]
    Blocked(String),
    /// The database accepted the connection, or a statement, and does not reply.
    #[error("the database did not reply within {} (database.timeout)", humantime::format_duration(*.0))]
    NoReply(Duration),
    /// A statement failed.
    #[error(transparent)]
    Statement(#[from] sqlx::Error),
    /// A migration failed.
    #[error(transparent)]
    Migration(#[from] MigrateError),
}

/// Creates the database if it is missing, migrates its schema and records the namespace. Of several concurrent calls one
/// migrates and the others wait.
///
/// # Errors
/// The database is unavailable or cannot be used, or a migration failed. Each migration is one transaction.
pub async fn migrate(config: &PgConfig, migration: &Migration<'_>) -> Result<SchemaVersion, MigrationError> {
    // A server that does not reply, or does not have the database, is reported below.
    if let Ok(Ok(usable)) = tokio::time::timeout(config.timeout, installation::check_sessions(config)).await {
        usable?;
    }
    let options = config.migration_session();
    let before = async {
        let mut connection = connect_or_create(&options).await?;
        Ok(installation::state(&mut connection).await?)
    };
    let before = within(config.timeout, before).await?;
    check(&before, migration)?;
    let mut tries = 0;
    let blocked = loop {
        tries += 1;
        match attempt(config.timeout, &options, migration).await? {
            Ok(version) => return Ok(version),
            Err(blocked) if tries == TRIES => break blocked,
            Err(blocked) => (migration.on_delay)(&format!("{blocked}; trying again in {PAUSE:?}")),
        }
        tokio::time::sleep(PAUSE).await;
    };
    Err(MigrationError::Blocked(blocked))
}

/// Only the migration itself may take long.
async fn within<T>(
    timeout: Duration,
    operation: impl Future<Output = Result<T, MigrationError>>,
) -> Result<T, MigrationError> {
    tokio::time::timeout(timeout, operation).await.unwrap_or(Err(MigrationError::NoReply(timeout)))
}

fn check(state: &DatabaseState, migration: &Migration<'_>) -> Result<(), UnusableDatabase> {
    state.check_encoding()?;
    if state.schema.found > Some(state.schema.expected) {
        return Err(UnusableDatabase::Schema(state.schema));
    }
    if migration.rename { Ok(()) } else { state.check_namespace(migration.namespace) }
}

/// Migrates, or returns which session holds a lock.
async fn attempt(
    timeout: Duration,
    options: &SessionOptions,
    migration: &Migration<'_>,
) -> Result<Result<SchemaVersion, String>, MigrationError> {
    let connected = async {
        let (mut lock, connection) = (options.connect().await?, options.connect().await?);
        let pid = pid(&mut lock).await?;
        Ok((lock, pid, connection))
    };
    let (mut lock, pid, mut connection) = within(timeout, connected).await?;
    let (locked, mut blockers) = blockers::observe(options, pid, lock_out_others(&mut lock)).await;
    let migrated = match locked {
        Ok(()) => {
            let pid = self::pid(&mut connection).await?;
            let (migrated, seen) = blockers::observe(options, pid, run(&mut connection, migration)).await;
            blockers = seen;
            migrated
        }
        Err(error) => Err(error),
    };
    // Also after an error: the connections have locks.
    let _ = connection.close().await;
    let _ = lock.close().await;
    match migrated {
        Ok(()) => {
            let expected = expected_version();
            Ok(Ok(SchemaVersion { found: Some(expected), expected }))
        }
        Err(error) if is_lock_conflict(&error) => Ok(Err(blockers::describe(&blockers))),
        Err(error) => Err(error),
    }
}

async fn pid(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar("select pg_backend_pid()").fetch_one(connection).await
}

/// Waits for another migration to end, and keeps others waiting until the connection is closed. The lock needs privileges
/// that only the owner of the schema has.
async fn lock_out_others(connection: &mut PgConnection) -> Result<(), MigrationError> {
    // Of two that create the table at the same time, one may fail.
    if connection.ensure_migrations_table().await.is_err() {
        connection.ensure_migrations_table().await?;
    }
    connection.execute("begin; lock table _sqlx_migrations in share update exclusive mode").await?;
    Ok(())
}

async fn run(connection: &mut PgConnection, migration: &Migration<'_>) -> Result<(), MigrationError> {
    schema_rights::restrict(connection).await?;
    schema::unlocked().run_direct(connection).await?;
    if migration.rename {
        return rename(connection, migration.namespace).await;
    }
    installation::claim(connection, migration.namespace).await?;
    Ok(installation::state(connection).await?.check_namespace(migration.namespace)?)
}

/// Records another namespace, unless a relay of the former one would go on publishing.
async fn rename(connection: &mut PgConnection, namespace: &str) -> Result<(), MigrationError> {
    let recorded = installation::claim(connection, namespace).await?;
    if recorded == namespace {
        return Ok(());
    }
    leadership::name_session(connection).await?;
    if !leadership::claim(connection).await? {
        return Err(MigrationError::RelayRunning(recorded));
    }
    sqlx::query!("update installation set namespace = $1", namespace).execute(connection).await?;
    Ok(())
}

fn is_lock_conflict(error: &MigrationError) -> bool {
    use MigrateError::{Execute, ExecuteMigration};
    match error {
        MigrationError::Statement(error)
        | MigrationError::Migration(Execute(error) | ExecuteMigration(error, _)) => {
            matches!(sqlstate(error).as_deref(), Some("55P03" | "40P01"))
        }
        _ => false,
    }
}

/// Connects to the database. Only one that is missing needs another one to connect to.
async fn connect_or_create(options: &SessionOptions) -> Result<PgConnection, sqlx::Error> {
    match options.connect().await {
        Err(error) if sqlstate(&error).as_deref() == Some("3D000") => {
            create_database(options).await?;
            options.connect().await
        }
        connected => connected,
    }
}

async fn create_database(options: &SessionOptions) -> Result<(), sqlx::Error> {
    let driver = options.driver_options();
    let name = driver.get_database().unwrap_or_else(|| driver.get_username()).replace('"', "\"\"");
    let mut connection = connect_for_maintenance(options).await?;
    let encoding: String = sqlx::query_scalar(
        "select pg_encoding_to_char(encoding)::text from pg_database where datname = 'template1'",
    )
    .fetch_one(&mut connection)
    .await?;
    // The locale of a cluster with another encoding may not fit UTF8; the locale C fits every encoding.
    let template = if encoding == "UTF8" { "" } else { " template template0 encoding 'UTF8' locale 'C'" };
    let created =
        sqlx::raw_sql(&format!("create database \"{name}\"{template}")).execute(&mut connection).await;
    match created {
        // A concurrent call has created it; the unique index of the catalog may report it first.
        Err(error) if matches!(sqlstate(&error).as_deref(), Some("42P04" | "23505")) => Ok(()),
        created => created.map(drop),
    }
}

/// Connects to the first maintenance database that this role may connect to.
async fn connect_for_maintenance(options: &SessionOptions) -> Result<PgConnection, sqlx::Error> {
    let [first, second] = MAINTENANCE_DATABASES.map(|database| options.database(database));
    match first.connect().await {
        Err(sqlx::Error::Database(_)) => second.connect().await,
        connected => connected,
    }
}

//! The schema: `allocation migrate` updates it, every other role checks its version.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{
    Connection, PgPool,
    migrate::{MigrateDatabase, Migrator},
    postgres::PgConnection,
};

use crate::{
    pg::{PgConfig, PooledSession},
    ports::{
        admin::{Schema, SchemaVersion},
        error::StoreError,
    },
};

static MIGRATIONS: Migrator = sqlx::migrate!();

/// Creates the database if it is missing, and migrates its schema. Of several concurrent calls one migrates and the others
/// wait.
///
/// # Errors
/// The database is unavailable, or a migration failed. Each migration is one transaction.
pub async fn migrate(url: &str) -> Result<SchemaVersion, sqlx::migrate::MigrateError> {
    let exists = sqlx::Postgres::database_exists(url).await?;
    if !exists && let Err(error) = sqlx::Postgres::create_database(url).await {
        // A concurrent call may have created it.
        if !sqlx::Postgres::database_exists(url).await? {
            return Err(error.into());
        }
    }
    let mut connection = PgConnection::connect(url).await?;
    MIGRATIONS.run_direct(&mut connection).await?;
    Ok(SchemaVersion { found: Some(expected()), expected: expected() })
}

/// The schema of one database.
pub struct PgSchema {
    pool: PgPool,
    timeout: Duration,
}

impl PgSchema {
    /// On a pool, with the time limit of its configuration.
    #[must_use]
    pub fn new(pool: PgPool, config: &PgConfig) -> Self {
        Self { pool, timeout: config.timeout }
    }
}

#[async_trait]
impl Schema for PgSchema {
    async fn version(&self) -> Result<SchemaVersion, StoreError> {
        let mut session = PooledSession::open(&self.pool, self.timeout).await?;
        let version = session.run(async |connection| version(connection).await).await?;
        session.release();
        Ok(version)
    }
}

async fn version(connection: &mut PgConnection) -> Result<SchemaVersion, sqlx::Error> {
    let table: bool = sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null")
        .fetch_one(&mut *connection)
        .await?;
    let found = if table {
        sqlx::query_scalar("select max(version) from _sqlx_migrations where success")
            .fetch_one(connection)
            .await?
    } else {
        None
    };
    Ok(SchemaVersion { found, expected: expected() })
}

fn expected() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default()
}

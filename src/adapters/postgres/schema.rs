//! The schema: brought up to date by `allocation migrate`, and checked by everybody else.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{
    Connection, PgPool,
    migrate::{MigrateDatabase, Migrator},
    postgres::PgConnection,
};

use crate::ports::{
    admin::{Schema, SchemaVersion},
    error::StoreError,
};

use super::{PgConfig, session::PooledSession};

static MIGRATIONS: Migrator = sqlx::migrate!();

/// Creates the database if it is missing, and brings its schema up to date. Of several at once one migrates and the
/// others wait.
///
/// # Errors
/// The database cannot be reached, or a migration failed; each is one transaction, so nothing is left half-way.
pub async fn migrate(url: &str) -> Result<SchemaVersion, sqlx::migrate::MigrateError> {
    let exists = sqlx::Postgres::database_exists(url).await?;
    if !exists && let Err(error) = sqlx::Postgres::create_database(url).await {
        // Somebody else may have created it since.
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
    /// The schema of the pool's database, which counts as away when it does not answer for the access's patience.
    #[must_use]
    pub fn new(pool: PgPool, access: &PgConfig) -> Self {
        Self { pool, timeout: access.timeout }
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

//! The state of the database: encoding, schema version, and the namespace that it belongs to.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::PgConnection;

use crate::{
    pg::{PgConfig, Pool, PooledSession, Pooler, with_timeout},
    ports::{
        error::StoreError,
        installation::{DatabaseState, Installation, SchemaVersion, UnusableDatabase},
    },
};

use super::schema;

/// The installation in one database, for one namespace.
pub struct PgInstallation {
    pool: Pool,
    timeout: Duration,
    namespace: String,
}

impl PgInstallation {
    /// On a pool, with the time limit of its configuration.
    #[must_use]
    pub fn new(pool: impl Into<Pool>, config: &PgConfig, namespace: &str) -> Self {
        Self { pool: pool.into(), timeout: config.timeout, namespace: namespace.to_owned() }
    }
}

#[async_trait]
impl Installation for PgInstallation {
    async fn state(&self) -> Result<DatabaseState, StoreError> {
        let mut session = PooledSession::open(&self.pool, self.timeout).await?;
        let state = session.run(async |connection| state(connection).await).await?;
        session.finish().await?;
        Ok(state)
    }

    async fn claim(&self) -> Result<String, StoreError> {
        let mut session = PooledSession::open(&self.pool, self.timeout).await?;
        let recorded = session.run(async |connection| claim(connection, &self.namespace).await).await?;
        session.finish().await?;
        Ok(recorded)
    }
}

/// Whether the URL for what needs a session of its own, such as the lock of the leader, leads to such sessions. The outer
/// error is an outage.
///
/// # Errors
/// The server does not reply.
pub async fn check_sessions(config: &PgConfig) -> Result<Result<(), UnusableDatabase>, StoreError> {
    let problem = match config.session().pooler(config.timeout).await? {
        None => return Ok(Ok(())),
        Some(Pooler::NoSettings) => "does not apply the settings of a session",
        Some(Pooler::SharedSessions) => "gives a session of the server to several connections in turn",
    };
    Ok(Err(UnusableDatabase::Pooler { setting: config.session_setting(), problem }))
}

/// The state of a database, read in a session of its own.
///
/// # Errors
/// The database is unavailable.
pub async fn observe_state(config: &PgConfig) -> Result<DatabaseState, StoreError> {
    let observed = async {
        let mut session = config.session().connect().await?;
        state(&mut session).await
    };
    with_timeout(config.timeout, observed).await
}

/// Reads the state of a database that may have no schema.
pub(super) async fn state(connection: &mut PgConnection) -> Result<DatabaseState, sqlx::Error> {
    let (database, encoding, read_only, migrated, installed): (String, String, bool, bool, bool) =
        sqlx::query_as(
            "select current_database()::text, current_setting('server_encoding'),
                    current_setting('transaction_read_only')::boolean,
                    to_regclass('_sqlx_migrations') is not null, to_regclass('installation') is not null",
        )
        .fetch_one(&mut *connection)
        .await?;
    let found = if migrated {
        let version = sqlx::query_scalar("select max(version) from _sqlx_migrations where success");
        version.fetch_one(&mut *connection).await?
    } else {
        None
    };
    let namespace = if installed { namespace(connection).await? } else { None };
    let schema = SchemaVersion { found, expected: schema::expected_version() };
    Ok(DatabaseState { database, encoding, read_only, schema, namespace })
}

/// The recorded namespace.
pub(super) async fn namespace(connection: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar!("select namespace from installation").fetch_optional(connection).await
}

/// Records a namespace unless one is recorded, and returns the recorded one.
pub(super) async fn claim(connection: &mut PgConnection, namespace: &str) -> Result<String, sqlx::Error> {
    if let Some(recorded) = self::namespace(connection).await? {
        return Ok(recorded);
    }
    sqlx::query!("insert into installation (namespace) values ($1) on conflict do nothing", namespace)
        .execute(&mut *connection)
        .await?;
    sqlx::query_scalar!("select namespace from installation").fetch_one(connection).await
}

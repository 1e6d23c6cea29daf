//! Sessions of the server that one connection has alone.

use std::time::Duration;

use sqlx::{ConnectOptions as _, Executor as _, PgConnection, Row as _, postgres::PgConnectOptions};

use crate::ports::error::StoreError;

use super::{error::is_pooler_error, timeout::with_timeout};

/// How long a session waits for a lock.
pub(super) const LOCK_TIMEOUT: &str = "2s";
/// How often two connections are compared. A pooler in transaction mode gives both the same session if nothing else uses it,
/// and otherwise soon another one.
const COMPARISONS: usize = 5;

/// How a session is opened that its connection has alone.
#[derive(Clone, Debug)]
pub(crate) struct SessionOptions {
    connect: PgConnectOptions,
    /// Statements that apply the settings, if the connection cannot pass them on.
    set: Option<String>,
}

/// Why a URL does not lead to sessions that a connection has alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pooler {
    /// A pooler refuses or drops the settings of a session.
    NoSettings,
    /// A pooler gives a session to several connections.
    SharedSessions,
}

impl SessionOptions {
    /// On the server itself: it takes the settings when a connection is made.
    pub(super) fn direct(url: &PgConnectOptions, name: &str, settings: &[(&str, String)]) -> Self {
        Self { connect: url.clone().application_name(name).options(settings.iter().cloned()), set: None }
    }

    /// Through a pooler in session mode, which may know no settings.
    pub(super) fn through_pooler(url: &PgConnectOptions, name: &str, settings: &[(&str, String)]) -> Self {
        Self { connect: without_settings(url, name), set: Some(assignments("set", settings)) }
    }

    /// The same in another database.
    pub(crate) fn database(&self, name: &str) -> Self {
        Self { connect: self.connect.clone().database(name), set: self.set.clone() }
    }

    /// What the driver connects with, without settings that a pooler may not know.
    pub(crate) fn driver_options(&self) -> &PgConnectOptions {
        &self.connect
    }

    /// Opens a session.
    pub(crate) async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let mut connection = self.connect.connect().await?;
        if let Some(set) = &self.set {
            connection.execute(set.as_str()).await?;
        }
        Ok(connection)
    }

    /// Whether the connection leads through a pooler that this program cannot use for it. Nothing is set in a session that may not be this process's own.
    pub(crate) async fn pooler(&self, timeout: Duration) -> Result<Option<Pooler>, StoreError> {
        let compared = with_timeout(timeout, async {
            match self.compare().await {
                Err(error) if is_pooler_error(&error) => Ok(Some(Pooler::NoSettings)),
                compared => compared,
            }
        });
        compared.await
    }

    async fn compare(&self) -> Result<Option<Pooler>, sqlx::Error> {
        let mut first = self.connect.connect().await?;
        if self.set.is_none() && !has_settings(&mut first).await? {
            return Ok(Some(Pooler::NoSettings));
        }
        let mut second = self.connect.connect().await?;
        let sessions = (session_id(&mut first).await?, session_id(&mut second).await?);
        for _ in 1..COMPARISONS {
            let again = (session_id(&mut first).await?, session_id(&mut second).await?);
            if sessions.0 == sessions.1 || again != sessions {
                return Ok(Some(Pooler::SharedSessions));
            }
        }
        Ok(None)
    }
}

/// A connection that passes on nothing but its name: poolers refuse settings that they do not know.
pub(super) fn without_settings(url: &PgConnectOptions, name: &str) -> PgConnectOptions {
    url.clone().application_name(name).extra_float_digits(None)
}

/// Statements that assign the settings. `command` is `set` or `set local`.
pub(super) fn assignments(command: &str, settings: &[(&str, String)]) -> String {
    let assign = |(name, value): &(&str, String)| {
        // One word or a list of words: quotes would make one name of a list.
        let value = if value.contains(',') { value.clone() } else { format!("'{value}'") };
        format!("{command} {name} = {value}")
    };
    settings.iter().map(assign).collect::<Vec<_>>().join(";")
}

/// Whether the settings of a session that was opened with them have arrived. No statement is prepared for it: a pooler could
/// execute another process's one.
pub(super) async fn has_settings(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let value: String = connection.fetch_one("show lock_timeout").await?.try_get(0)?;
    Ok(value == LOCK_TIMEOUT)
}

async fn session_id(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    connection.fetch_one("select pg_backend_pid()").await?.try_get(0)
}

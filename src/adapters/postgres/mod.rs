//! PostgreSQL: the store, the outbox, and how its errors are understood.

mod failures;
mod inbox;
mod low_water_mark;
mod operator_actions;
mod outbox;
mod products;
mod purge;
mod read_model;
mod schema;
mod session;
mod store;

use std::{str::FromStr, time::Duration};

use sqlx::{
    Executor as _, Row as _,
    postgres::{PgConnectOptions, PgPool, PgPoolOptions},
};

use crate::ports::store::StoreError;

pub use operator_actions::PgFailedMessages;
pub use outbox::{CommitSignal, PgOutbox, forward_commits};
pub use read_model::PgReadModel;
pub use schema::{PgSchema, migrate};
pub use store::PgStore;

/// A connection that was idle longer may have died unnoticed, and is asked before it is used.
const ASK_AFTER_IDLE: Duration = Duration::from_secs(1);

/// Settings of every connection that prefer an index to everything else: a plan is kept until somebody analyzes its tables,
/// and one that was made while a table was small would until then go on to read all of it.
pub const PLANNER: [(&str, &str); 5] = [
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("jit", "off"), // What cannot be found by an index would be taken for expensive enough.
];

/// How to reach the database, and how patient to be.
#[derive(Clone, Debug)]
pub struct PgConfig {
    options: PgConnectOptions,
    max_connections: u32,
    /// How long to wait for a connection or an answer before the database counts as away.
    pub(crate) timeout: Duration,
}

impl PgConfig {
    /// Parses a `postgres://` URL; connections made with it bound every statement on the server's side, too, and plan as
    /// [`PLANNER`] says.
    ///
    /// # Errors
    /// The URL is not one; the message does not repeat it, for it may hold a password.
    pub fn new(url: &str, max_connections: u32, timeout: Duration) -> Result<Self, sqlx::Error> {
        // Longer than we wait ourselves: a statement that takes so long is an outage, not the fault of its message.
        let statement_timeout = format!("{}ms", (timeout + Duration::from_secs(5)).as_millis());
        let options = PgConnectOptions::from_str(url)?.application_name("allocation").options([
            ("statement_timeout", statement_timeout.as_str()),
            ("lock_timeout", "2s"),
            ("idle_in_transaction_session_timeout", "60s"),
        ]);
        let options = options.options(PLANNER);
        Ok(Self { options, max_connections, timeout })
    }

    /// A pool that connects when it is first used.
    #[must_use]
    pub fn pool(&self) -> PgPool {
        PgPoolOptions::new()
            .max_connections(self.max_connections)
            .acquire_timeout(Duration::from_secs(3))
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    if meta.idle_for < ASK_AFTER_IDLE {
                        return Ok(true);
                    }
                    // False inside a transaction that somebody left open: such a connection is closed. Prepared, it
                    // would always be false.
                    connection.fetch_one("select now() = statement_timestamp()").await?.try_get(0)
                })
            })
            .connect_lazy_with(self.options.clone())
    }
}

/// Runs statements, but not longer than a connection may be silent.
async fn with_timeout<T>(
    timeout: Duration,
    statements: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(timeout, statements).await {
        Ok(outcome) => outcome.map_err(|error| store_error(&error)),
        Err(_) => Err(StoreError::Silent(format!("no answer within {timeout:?}"))),
    }
}

/// What an error says about the store; the SQLSTATE decides.
fn store_error(error: &sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::Database(database) => {
            let code = database.code().unwrap_or_default();
            let text = format!("{database} (SQLSTATE {code})");
            by_sqlstate(&code, text)
        }
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => StoreError::Unavailable(error.to_string()),
        _ => StoreError::Failed(error.to_string()),
    }
}

fn by_sqlstate(code: &str, text: String) -> StoreError {
    match code {
        // Serialization failure, deadlock, lock not available, and two who create the same row at once.
        "40001" | "40P01" | "55P03" | "23505" => StoreError::Conflict(text),
        // Shutting down, starting up, read-only after a failover, a full disk, a transaction that was cut off, a
        // missing database.
        "57P01" | "57P02" | "57P03" | "57P04" | "25006" | "25P03" | "58030" | "3D000" => {
            StoreError::Unavailable(text)
        }
        _ => match code.get(..2) {
            // Connection, resources, authorization; and what a deployment got wrong, such as a missing column.
            Some("08" | "53" | "28" | "42" | "0A" | "55") => StoreError::Unavailable(text),
            // Data, constraints, limits.
            Some("22" | "23" | "54") => StoreError::BadData(text),
            _ => StoreError::Failed(text),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sqlstate_has_its_verdict() {
        let verdict = |code| match by_sqlstate(code, String::new()) {
            StoreError::Conflict(_) => "conflict",
            StoreError::Unavailable(_) | StoreError::Silent(_) | StoreError::CommitUnknown(_) => {
                "unavailable"
            }
            StoreError::BadData(_) => "bad data",
            StoreError::Failed(_) => "failed",
        };
        let table = [
            ("conflict", vec!["40001", "40P01", "55P03", "23505"]),
            (
                "unavailable",
                vec![
                    "57P01", "57P02", "57P03", "57P04", "25006", "25P03", "3D000", "58030", "08006", "53100",
                    "53300", "28P01", "42P01", "42703", "42501", "0A000", "55000", "55006",
                ],
            ),
            ("bad data", vec!["22P05", "22003", "22021", "23502", "23503", "23514", "54001", "54000"]),
            ("failed", vec!["57014", "XX000", ""]),
        ];
        for (expected, codes) in table {
            for code in codes {
                assert_eq!(verdict(code), expected, "{code}");
            }
        }
    }
}

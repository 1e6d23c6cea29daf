//! PostgreSQL: the store, the outbox, and how its errors are understood.

mod commit_signal;
mod failed_messages;
mod inbox;
mod leader;
mod low_water_mark;
mod outbox;
mod parked_events;
mod products;
mod purge;
mod read_model;
mod schema;
mod session;
mod sql_error;
mod starts;
mod store;

use std::{str::FromStr, time::Duration};

use sqlx::{
    Executor as _, Row as _,
    postgres::{PgConnectOptions, PgPool, PgPoolOptions},
};

use crate::ports::error::{Cause, StoreError};

pub use commit_signal::{CommitSignal, forward_commits};
pub use failed_messages::PgFailedMessages;
pub use leader::PgOutbox;
pub use parked_events::PgParkedEvents;
pub use read_model::PgReadModel;
pub use schema::{PgSchema, migrate};
pub use store::PgStore;

use sql_error::SqlError;

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
        Ok(outcome) => outcome.map_err(store_error),
        Err(_) => Err(StoreError::Timeout(format!("no answer within {timeout:?}").into())),
    }
}

/// The class of an error, with its cause; the SQLSTATE decides.
fn store_error(error: sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::Database(database) => {
            let cause = SqlError::from(&*database);
            by_sqlstate(&cause.code)(Cause::new(cause))
        }
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => StoreError::Unavailable(Cause::new(error)),
        _ => StoreError::Failed(Cause::new(error)),
    }
}

fn by_sqlstate(code: &str) -> fn(Cause) -> StoreError {
    match code {
        // Serialization failure, deadlock, lock not available, and two transactions that create the same row.
        "40001" | "40P01" | "55P03" | "23505" => StoreError::Conflict,
        // Shutting down, starting up, read-only after a failover, a full disk, a transaction that was cut off, a
        // missing database.
        "57P01" | "57P02" | "57P03" | "57P04" | "25006" | "25P03" | "58030" | "3D000" => {
            StoreError::Unavailable
        }
        _ => match code.get(..2) {
            // Connection, resources, authorization; and deployment mistakes such as a missing column.
            Some("08" | "53" | "28" | "42" | "0A" | "55") => StoreError::Unavailable,
            // Data, constraints, limits.
            Some("22" | "23" | "54") => StoreError::InvalidData,
            _ => StoreError::Failed,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sqlstate_has_its_class() {
        let class = |code| match by_sqlstate(code)("".into()) {
            StoreError::Conflict(_) => "conflict",
            StoreError::Unavailable(_) | StoreError::Timeout(_) | StoreError::CommitUnknown(_) => {
                "unavailable"
            }
            StoreError::InvalidData(_) => "bad data",
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
                assert_eq!(class(code), expected, "{code}");
            }
        }
    }
}

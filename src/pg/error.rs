//! The class of a database error: what the caller may do next.

use std::borrow::Cow;

use crate::ports::error::{Cause, StoreError};

use super::sql_error::SqlError;

/// The SQLSTATE of an error, if the server reported it.
pub(crate) fn sqlstate(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(Cow::into_owned)
}

/// Whether only a connection pooler reports this error.
pub(super) fn is_pooler_error(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| SqlError::from(error).pooler_hint().is_some())
}

/// The class of an error, with its cause. The SQLSTATE of the server's errors decides.
pub(crate) fn store_error(error: sqlx::Error) -> StoreError {
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
        // Serialization failure, deadlock.
        "40001" | "40P01" => StoreError::Conflict,
        "23505" => StoreError::AlreadyExists,
        "55P03" => StoreError::Locked,
        // Read-only after a failover, a transaction that was cut off, a prepared statement that a pooler lost, a missing
        // database; shutting down, starting up, a
        // session that was idle for too long; but not a cancelled statement.
        "25006" | "25P03" | "25P04" | "26000" | "3D000" | "57P01" | "57P02" | "57P03" | "57P04" | "57P05" => {
            StoreError::Unavailable
        }
        _ => match code.get(..2) {
            // Connection, resources, the server's files, authorization; and deployment mistakes such as a missing column.
            Some("08" | "53" | "58" | "28" | "42" | "0A" | "55") => StoreError::Unavailable,
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
            StoreError::AlreadyExists(_) => "exists",
            StoreError::Locked(_) => "locked",
            StoreError::Unavailable(_) | StoreError::Timeout(_) | StoreError::CommitUnknown(_) => {
                "unavailable"
            }
            StoreError::InvalidData(_) => "invalid data",
            StoreError::Failed(_) => "failed",
        };
        let table = [
            ("conflict", vec!["40001", "40P01"]),
            ("exists", vec!["23505"]),
            ("locked", vec!["55P03"]),
            (
                "unavailable",
                vec![
                    "57P01", "57P02", "57P03", "57P04", "57P05", "25006", "25P03", "25P04", "26000", "3D000",
                    "58030", "58P01", "08006", "53100", "53300", "28P01", "42P01", "42703", "42501", "0A000",
                    "55000", "55006",
                ],
            ),
            ("invalid data", vec!["22P05", "22003", "22021", "23502", "23503", "23514", "54001", "54000"]),
            ("failed", vec!["57014", "XX000", ""]),
        ];
        for (expected, codes) in table {
            for code in codes {
                assert_eq!(class(code), expected, "{code}");
            }
        }
    }
}

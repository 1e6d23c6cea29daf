//! The parts of a server's error that are kept.

use std::fmt;

use sqlx::error::DatabaseError;

/// What to do if a URL leads to a connection pooler.
pub(super) const POOLER_HINT: &str = "database.url leads to a connection pooler such as PgBouncer; set database.session_url to a \
     URL of the server itself, or of a pool in session mode";
const STATEMENT_MODE_HINT: &str = "database.url leads to a connection pooler in statement mode, which has no transactions; use the \
     transaction mode";

/// An error reply of the server. Its detail and context are not kept: they may hold values of a row.
#[derive(Clone, Debug)]
pub(super) struct SqlError {
    /// SQLSTATE.
    pub(super) code: String,
    message: String,
    constraint: Option<String>,
}

impl From<&dyn DatabaseError> for SqlError {
    fn from(error: &dyn DatabaseError) -> Self {
        Self {
            code: error.code().unwrap_or_default().into_owned(),
            message: error.message().to_owned(),
            constraint: error.constraint().map(str::to_owned),
        }
    }
}

impl SqlError {
    /// What to do, if only a connection pooler reports this error: it refuses a setting that it does not know, or a
    /// statement was prepared in another session, or by another process.
    pub(super) fn pooler_hint(&self) -> Option<&'static str> {
        match self.code.as_str() {
            "08P01" if self.message.contains("unsupported startup parameter") => Some(POOLER_HINT),
            "08P01" if self.message.contains("not allowed in statement pooling mode") => {
                Some(STATEMENT_MODE_HINT)
            }
            "42P05" | "26000" => Some(POOLER_HINT),
            _ => None,
        }
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, message, constraint } = self;
        f.write_str(message)?;
        // The server's own messages name the constraint; those of a trigger need not.
        if let Some(hint) = self.pooler_hint() {
            return write!(f, " (SQLSTATE {code}): {hint}");
        }
        match constraint.as_deref().filter(|name| !message.contains(name)) {
            Some(name) => write!(f, " (SQLSTATE {code}, constraint {name:?})"),
            None => write!(f, " (SQLSTATE {code})"),
        }
    }
}

impl std::error::Error for SqlError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_errors_of_a_pooler_say_what_to_set() {
        let error = |code: &str, message: &str| {
            SqlError { code: code.into(), message: message.into(), constraint: None }.to_string()
        };
        let refused = error("08P01", "unsupported startup parameter: options");
        assert!(
            refused.starts_with("unsupported startup parameter: options (SQLSTATE 08P01): "),
            "{refused}"
        );
        for (code, message) in [
            ("08P01", "unsupported startup parameter: extra_float_digits"),
            ("08P01", "unsupported startup parameter in options: jit"),
            ("42P05", "prepared statement \"sqlx_s_1\" already exists"),
            ("26000", "prepared statement \"sqlx_s_1\" does not exist"),
        ] {
            assert!(error(code, message).contains("database.session_url"), "{message}");
        }
        let statements = error("08P01", "transaction blocks not allowed in statement pooling mode");
        assert!(statements.contains("use the transaction mode"), "{statements}");
        assert!(!error("08P01", "invalid message format").contains("session_url"));
    }

    #[test]
    fn the_constraint_is_named_once() {
        let error = |message: &str| SqlError {
            code: "23514".into(),
            message: message.into(),
            constraint: Some("positive".into()),
        };
        assert_eq!(error("not allowed").to_string(), "not allowed (SQLSTATE 23514, constraint \"positive\")");
        let server = "new row violates check constraint \"positive\"";
        assert_eq!(error(server).to_string(), format!("{server} (SQLSTATE 23514)"));
    }
}

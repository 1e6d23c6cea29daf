//! The parts of a server's error that are kept.

use std::fmt;

use sqlx::error::DatabaseError;

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

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, message, constraint } = self;
        f.write_str(message)?;
        // The server's own messages name the constraint; those of a trigger need not.
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

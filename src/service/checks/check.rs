//! A check and its result.

use serde::{Serialize, Serializer};

use crate::domain::named_values;

named_values! {
    /// The result of a check.
    CheckStatus {
        /// As it should be.
        Ok = "ok",
        /// It works, and should be changed.
        Warning = "warning",
        /// It must be changed.
        Failed = "failed",
        /// It could not be checked.
        NotKnown = "not known",
    }
}

impl Serialize for CheckStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name.
    pub check: &'static str,
    /// Its result.
    pub status: CheckStatus,
    /// What was found.
    pub found: String,
    /// What is wanted.
    pub wanted: &'static str,
    /// Commands of a shell that repair it, in order; empty if there is nothing to do, or no command does it.
    pub fix: Vec<String>,
}

impl Check {
    pub(super) fn new(
        check: &'static str,
        wanted: &'static str,
        status: CheckStatus,
        found: impl Into<String>,
    ) -> Self {
        Self { check, status, found: found.into(), wanted, fix: Vec::new() }
    }

    pub(super) fn ok(check: &'static str, wanted: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, wanted, CheckStatus::Ok, found)
    }

    pub(super) fn not_known(check: &'static str, wanted: &'static str, because: impl Into<String>) -> Self {
        Self::new(check, wanted, CheckStatus::NotKnown, because)
    }

    /// What was observed decides; what was not is not known.
    pub(super) fn of<T>(
        check: &'static str,
        wanted: &'static str,
        observed: &Result<T, String>,
        decide: impl FnOnce(&T) -> Self,
    ) -> Self {
        match observed {
            Ok(observed) => decide(observed),
            Err(because) => Self::not_known(check, wanted, because.clone()),
        }
    }

    /// The same with a command that repairs it.
    pub(super) fn fixed_by(mut self, fix: impl IntoIterator<Item = String>) -> Self {
        self.fix.extend(fix);
        self
    }
}

/// A command that runs a statement as the owner of the tables.
pub(super) fn as_owner(statement: &str) -> String {
    format!("psql --set ON_ERROR_STOP=1 --dbname \"${{OWNER_URL:?}}\" --command {}", quoted(statement))
}

/// A text as one word of a shell.
pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

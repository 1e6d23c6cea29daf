//! The exit status of a subcommand.

use std::process::ExitCode;

/// Whether a subcommand did everything that it was asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExitStatus {
    Success,
    /// Something failed, or was only partly done.
    Incomplete,
    /// The arguments contradict each other or are incomplete.
    UsageError,
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        match status {
            ExitStatus::Success => Self::SUCCESS,
            ExitStatus::Incomplete => Self::FAILURE,
            ExitStatus::UsageError => Self::from(2),
        }
    }
}

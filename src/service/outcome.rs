//! What handling a message results in.

use std::time::Duration;

use crate::domain::RetryDecision;

use super::failure::Failure;

/// The final outcome of a message.
#[derive(Clone, Debug)]
pub enum CommandOutcome {
    /// It was handled, and its changes are committed.
    Handled,
    /// It was handled before, or is an outdated copy of a failed message; nothing changed.
    Duplicate,
    /// It was not handled and nothing changed; the attempt is recorded.
    Recorded(Failure, RetryDecision),
    /// It was not handled and nothing changed; the failure is reported to its sender, who waits for the answer.
    Reported(Failure),
    /// Whether it was handled is unknown; its sender waits for the answer.
    Unknown,
}

impl CommandOutcome {
    /// Whether a commit was needed for it: the store accepts writes.
    #[must_use]
    pub fn is_committed(&self) -> bool {
        matches!(self, Self::Handled | Self::Duplicate | Self::Recorded(..))
    }

    /// The outcome of a copy of the message in the same unit of work.
    pub(super) fn of_copy(&self) -> Self {
        match self {
            Self::Handled => Self::Duplicate,
            other => other.clone(),
        }
    }
}

/// The result for one message of a unit of work, before failures are recorded and the unit of work is committed.
#[derive(Debug)]
pub(super) enum Step {
    Done(CommandOutcome),
    /// Handling it failed after this time; the other messages are not affected.
    Failed(Failure, Duration),
    /// The same as the earlier message at this index, of which it is a copy.
    CopyOf(usize),
}

impl Step {
    /// A failure that took no time: no handler was run.
    pub(super) fn failed(failure: impl Into<Failure>) -> Self {
        Self::Failed(failure.into(), Duration::ZERO)
    }
}

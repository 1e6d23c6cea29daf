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
    Recorded(Failure, AttemptRecord),
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

    fn of_copy(&self) -> Self {
        match self {
            Self::Handled => Self::Duplicate,
            other => other.clone(),
        }
    }
}

/// What is recorded of a failed attempt.
#[derive(Clone, Debug)]
pub struct AttemptRecord {
    /// What happens to the message next.
    pub decision: RetryDecision,
    /// The number of attempts, with this one.
    pub attempts: u32,
    /// The id of the group of messages that failed in the same way.
    pub error_group: String,
}

/// The outcome of a message, with what observers need besides.
#[derive(Clone, Debug)]
pub(super) struct Settled {
    pub(super) outcome: CommandOutcome,
    /// The generation of the copy; 0 for a message from a sender.
    pub(super) generation: i64,
    /// How long its handler ran; none if none did.
    pub(super) handler: Option<Duration>,
    /// Whether it is a copy of another message of its unit of work: then its failure is not recorded again.
    pub(super) is_copy: bool,
}

impl Settled {
    /// The outcome of a message that was not handled now.
    pub(super) fn new(outcome: CommandOutcome, generation: i64) -> Self {
        Self { outcome, generation, handler: None, is_copy: false }
    }

    /// The outcome of a copy of the message in the same unit of work.
    pub(super) fn of_copy(&self) -> Self {
        Self { outcome: self.outcome.of_copy(), handler: None, is_copy: true, ..self.clone() }
    }

    /// The same with the time that a handler took; zero if none was run.
    pub(super) fn after(self, took: Duration) -> Self {
        Self { handler: (!took.is_zero()).then_some(took), ..self }
    }
}

/// The result for one message of a unit of work, before failures are recorded and the unit of work is committed.
#[derive(Debug)]
pub(super) enum Step {
    /// It was handled, in this time.
    Handled(Duration),
    /// It need not be handled.
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

//! Reports about messages.

use std::time::{Duration, SystemTime};

use crate::{
    domain::{Reason, named_values},
    ports::queue::{QueueKind, QueueName},
};

use super::{period::Period, spans::SpanDecision};

named_values! {
    /// Where a command came from.
    Source {
        /// A queue.
        Queue = "queue",
        /// An HTTP request.
        Http = "http",
    }
}

named_values! {
    /// The class of an error.
    ErrorClass {
        /// The message cannot be decoded.
        InvalidMessage = "invalid_message",
        /// The message id belongs to another message.
        MessageIdConflict = "message_id_conflict",
        /// A rule of the domain rejected the command.
        Rejected = "rejected",
        /// Another transaction conflicts.
        Conflict = "conflict",
        /// Another session holds a lock.
        Locked = "locked",
        /// The handler, a statement or the commit took too long.
        Timeout = "timeout",
        /// The handler panicked.
        Panic = "panic",
        /// The store failed in another way, or did not answer for each message.
        Store = "store",
        /// A server is unavailable.
        Unavailable = "unavailable",
        /// The receiver of a notification rejected or deferred it.
        Notification = "notification",
        /// The worker crashed repeatedly while the message was handled.
        CrashLoop = "crash_loop",
        /// An earlier command for the same line or batch comes first.
        Waiting = "waiting",
        /// The broker dead-lettered the message.
        DeadLettered = "dead_lettered",
    }
}

/// The outcome of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageOutcome {
    /// It was handled.
    Handled,
    /// It was handled before, is a copy of another message of its unit of work, or an outdated retry: nothing changed.
    Duplicate,
    /// It failed, and is tried again.
    Retrying,
    /// It could not be tried, and is tried again; no attempt was counted.
    Postponed,
    /// It waits for an earlier command for the same line or batch.
    Waiting,
    /// It is a dead letter now.
    Dead(Reason),
    /// It failed, and its sender got the error in the answer. Nothing is recorded.
    Rejected,
    /// Its sender was answered that the outcome is unknown, or that a server is unavailable.
    Unknown,
}

impl MessageOutcome {
    /// The public name, without the reason.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Handled => "handled",
            Self::Duplicate => "duplicate",
            Self::Retrying => "retrying",
            Self::Postponed => "postponed",
            Self::Waiting => "waiting",
            Self::Dead(_) => "dead",
            Self::Rejected => "rejected",
            Self::Unknown => "unknown",
        }
    }
}

/// A message of a report.
#[derive(Clone, Debug)]
pub struct MessageReport<'a> {
    /// Its type if it is one of those that this service handles, otherwise "other".
    pub message_type: &'static str,
    /// Its id, if it has one.
    pub message_id: Option<&'a str>,
    /// Its correlation id, if it can be decoded.
    pub correlation_id: Option<&'a str>,
    /// The W3C trace context of its sender, as it was sent; it may be invalid.
    pub traceparent: Option<&'a str>,
    /// Whether its span is recorded.
    pub span: SpanDecision,
    /// The size of its body.
    pub body_bytes: usize,
    /// How long this process had it at the time of the report.
    pub held_for: Duration,
    /// Whether it was delivered before.
    pub redelivered: bool,
    /// The id of the failed message of which it is a retry.
    pub failed_message_id: Option<i64>,
    /// The generation of the retry; 0 for a message from a sender.
    pub generation: i64,
    /// How long its handler ran; `None` if none did.
    pub handler: Option<Duration>,
    /// Its outcome; `None` if the unit of work failed: then its messages are handled again.
    pub outcome: Option<MessageOutcome>,
    /// The number of failed attempts including this one; 0 if nothing was recorded.
    pub attempts: u32,
    /// The class of its error, if it failed.
    pub error: Option<ErrorClass>,
    /// The group of its error, if its failure was recorded.
    pub error_group: Option<&'a str>,
}

/// How a unit of work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitOfWorkResult {
    /// It was committed.
    Committed,
    /// It was rolled back, or its commit was not answered. Its messages are handled again.
    Failed(ErrorClass),
}

/// A unit of work that has ended. Its phases follow each other; the last one that began has ended with it.
#[derive(Clone, Debug)]
pub struct UnitOfWorkReport<'a> {
    /// The queue of its messages.
    pub queue: QueueName,
    /// Where they came from.
    pub source: Source,
    /// When it began, by the clock of this machine.
    pub begin: SystemTime,
    /// How long it took to begin the transaction, to look the messages up, and to load what their handlers need.
    pub load: Duration,
    /// How long the handlers took; for notifications, until their mail was sent.
    pub handle: Duration,
    /// How long it took to record failures and to commit.
    pub commit: Duration,
    /// How it ended.
    pub result: UnitOfWorkResult,
    /// Its messages.
    pub messages: &'a [MessageReport<'a>],
}

impl UnitOfWorkReport<'_> {
    /// How long it took.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.load + self.handle + self.commit
    }
}

/// A message that got its outcome outside of the units of work that handle messages: its failure was recorded in a transaction
/// of its own, or reported to its sender.
#[derive(Clone, Debug)]
pub struct FailureReport<'a> {
    /// Its queue.
    pub queue: QueueName,
    /// Whether it is a dead letter of that queue.
    pub queue_kind: QueueKind,
    /// Where it came from.
    pub source: Source,
    /// The time that it took to record the failure.
    pub period: Period,
    /// The message.
    pub message: MessageReport<'a>,
}

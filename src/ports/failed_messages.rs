//! What is kept of commands that failed, and what becomes of them.

use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use uuid::Uuid;

use crate::domain::{BodyHash, FailedMessageKey};

use super::error::StoreError;

/// Why a command is dead: no retry will be tried unless an operator says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It cannot be read, or the store cannot keep what it says.
    InvalidMessage,
    /// Its type is none of ours.
    UnknownCommand,
    /// It has no id by which a repeat could be recognised.
    MissingMessageId,
    /// A message of its id, with another body, was handled.
    MessageIdConflict,
    /// Its body or headers are larger than is allowed.
    TooLarge,
    /// A rule said no, at every attempt.
    Rejected,
    /// It failed at every attempt.
    AttemptsExhausted,
    /// It killed its worker, again and again.
    CrashLoop,
    /// The broker gave up on it.
    DeliveryLimit,
}

impl Reason {
    /// The name the contract gives it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidMessage => "invalid_message",
            Self::UnknownCommand => "unknown_command",
            Self::MissingMessageId => "missing_message_id",
            Self::MessageIdConflict => "message_id_conflict",
            Self::TooLarge => "too_large",
            Self::Rejected => "rejected",
            Self::AttemptsExhausted => "attempts_exhausted",
            Self::CrashLoop => "crash_loop",
            Self::DeliveryLimit => "delivery_limit",
        }
    }
}

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryDecision {
    /// Another attempt, after this time.
    Retry(Duration),
    /// None, for this reason.
    Dead(Reason),
}

/// One failed attempt, with all that is needed to understand it and to try again.
#[derive(Clone, Debug, PartialEq)]
pub struct NewAttempt {
    /// Which message of the queue.
    pub key: FailedMessageKey,
    /// The generation of the failed copy: 0 for a message from a sender. A copy of an earlier generation is recorded
    /// already. A message from a sender is recorded, too, unless the ledger has it as retrying: a redelivery cannot be
    /// distinguished from a message that was sent again, and an attempt that is counted twice is better than a lost message.
    pub generation: i64,
    /// Its bytes.
    pub body: Vec<u8>,
    /// Its properties and headers, for people.
    pub properties: String,
    /// The same, exactly, for whoever publishes it again.
    pub original: Vec<u8>,
    /// The error.
    pub error: String,
    /// The error without its variable values.
    pub error_pattern: String,
    /// What it has in common with others of its kind.
    pub error_group: String,
    /// What caused the error, outermost first.
    pub chain: Vec<String>,
    /// How many attempts that makes.
    pub attempts: u32,
    /// How long the attempt took.
    pub duration: Duration,
    /// Who tried.
    pub host: String,
    /// What follows.
    pub next: RetryDecision,
}

/// A message whose time for another attempt has come.
#[derive(Clone, Debug, PartialEq)]
pub struct DueRetry {
    /// Its row in the ledger.
    pub id: i64,
    /// The generation of the copy that is to be published.
    pub generation: i64,
    /// The short name of its queue.
    pub queue: String,
    /// Its id, if it has one.
    pub message_id: Option<String>,
    /// Its type.
    pub kind: String,
    /// Its bytes.
    pub body: Vec<u8>,
    /// Its properties, as the client library had them.
    pub original: Vec<u8>,
    /// Whether an operator has replaced the body.
    pub edited: bool,
    /// What makes the mark of its copies genuine.
    pub secret: Uuid,
}

/// Which failed messages an operator means; what is not given restricts nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FailedMessageFilter {
    /// These and no others.
    pub ids: Option<Vec<i64>>,
    /// In this status.
    pub status: Option<String>,
    /// Of this queue, by its short name.
    pub queue: Option<String>,
    /// Of this type.
    pub kind: Option<String>,
    /// Dead for this reason.
    pub reason: Option<String>,
    /// Whose error or message id contains this, in any case.
    pub grep: Option<String>,
    /// Whose last failure is not longer ago.
    pub since: Option<Duration>,
    /// Of this group.
    pub group: Option<String>,
}

/// Who acts, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// A person, as far as the machine knows.
    pub who: String,
    /// In their words.
    pub why: Option<String>,
}

/// What an operator does with failed messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperatorAction {
    /// Dead ones are tried again as if they had never failed; waiting ones are tried at once.
    Retry,
    /// Dead ones are put away.
    Discard,
    /// Those put away are dead again.
    Restore,
}

/// What became of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActionResult {
    /// As asked.
    Applied,
    /// Nothing was done, for this reason.
    Skipped(&'static str),
}

/// A body that replaces another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The generation that was shown to the operator: of two who edit at once, the second is refused.
    pub shown_generation: i64,
    /// The type from now on.
    pub kind: String,
    /// The message id from now on.
    pub message_id: String,
    /// The bytes from now on.
    pub body: Vec<u8>,
    /// Their hash.
    pub body_hash: BodyHash,
}

/// The ledger as operators change it.
#[async_trait]
pub trait FailedMessages: Send + Sync {
    /// The ids of the messages that are meant, the longest dead first.
    async fn matching(&self, filter: &FailedMessageFilter) -> Result<Vec<i64>, StoreError>;

    /// Acts on messages in one transaction, records who and why, and says what became of each that exists. One that the
    /// selection does not match any more, apart from its ids and its age, is skipped.
    async fn apply(
        &self,
        action: OperatorAction,
        ids: &[i64],
        filter: &FailedMessageFilter,
        by: &Operator,
    ) -> Result<Vec<(i64, ActionResult)>, StoreError>;

    /// Replaces a dead message's body, keeps the old one, and tries again.
    async fn edit(&self, id: i64, edit: &Edit, by: &Operator) -> Result<ActionResult, StoreError>;
}

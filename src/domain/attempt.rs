//! A failed attempt, and what follows it.

use std::{sync::Arc, time::Duration};

use super::{message::FailedMessageKey, names::named_values, ordering_key::OrderingKey};

named_values! {
    /// Why a message is dead: it is retried only if an operator requests it.
    Reason {
        /// It cannot be read, or the store cannot store its data.
        InvalidMessage = "invalid_message",
        /// Its type is unknown, or belongs to another queue.
        UnknownCommand = "unknown_command",
        /// It has no id, so that a duplicate could not be detected.
        MissingMessageId = "missing_message_id",
        /// A message with its id and another body was handled.
        MessageIdConflict = "message_id_conflict",
        /// Its body or its headers exceed the limit.
        TooLarge = "too_large",
        /// A domain rule rejected it at every attempt.
        Rejected = "rejected",
        /// It failed at every attempt.
        AttemptsExhausted = "attempts_exhausted",
        /// Its worker crashed repeatedly while it was handled.
        CrashLoop = "crash_loop",
        /// The broker delivered it too often.
        DeliveryLimit = "delivery_limit",
        /// An operator discarded it before its last attempt.
        Discarded = "discarded",
    }
}

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryDecision {
    /// Another attempt, after this delay.
    Retry(Duration),
    /// No other attempt, for this reason.
    Dead(Reason),
    /// It could not be attempted; it is tried again after this delay.
    Postpone(Duration),
    /// It was not attempted: it waits until no earlier message with its key is retrying or waiting.
    Wait,
}

impl RetryDecision {
    /// Whether the message was attempted: only then it is a failed attempt.
    #[must_use]
    pub fn was_attempted(self) -> bool {
        matches!(self, Self::Retry(_) | Self::Dead(_))
    }
}

/// A failed attempt, or a message that could not be attempted, with everything that an operator or a retry needs.
#[derive(Clone, Debug, PartialEq)]
pub struct NewAttempt {
    /// The message of the queue.
    pub key: FailedMessageKey,
    /// The line or the batch that it is about, if it is a command.
    pub ordering_key: Option<OrderingKey>,
    /// The message id of the last command with its ordering key that was handled after it, in the same unit of work.
    pub overtaken_by: Option<Arc<str>>,
    /// The generation of the copy that failed; 0 for a message from a sender.
    pub generation: i64,
    /// The body.
    pub body: Arc<[u8]>,
    /// Properties and headers as JSON, for operators.
    pub properties: String,
    /// Properties and headers as received, for a retry.
    pub original: Vec<u8>,
    /// The error.
    pub error: String,
    /// The error without its variable values.
    pub error_pattern: String,
    /// The group of failures with the same queue, type, reason and error pattern.
    pub error_group: String,
    /// What caused the error, outermost first.
    pub chain: Vec<String>,
    /// The number of this attempt, from 1; if it was not attempted, the number of the earlier attempts.
    pub attempts: u32,
    /// How long the attempt took.
    pub duration: Duration,
    /// The process that made the attempt.
    pub host: String,
    /// The id of the trace in which it is recorded, in hexadecimal digits.
    pub trace_id: Option<String>,
    /// What follows.
    pub next: RetryDecision,
}

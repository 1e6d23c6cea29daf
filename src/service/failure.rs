//! Which failures are retried: section 3 of the contract as one pure function.

use std::time::Duration;

use crate::{
    domain::{Reason, Rejection, RetryDecision},
    ports::error::{NotifierError, StoreError, join_chain},
};

use super::{backoff::RetryPolicy, decode_error::DecodeError};

/// Why a message was not handled.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// It cannot be decoded.
    #[error(transparent)]
    DecodeError(#[from] DecodeError),
    /// A message with its id and another type or body was handled.
    #[error("message id was already used with another type or body")]
    BodyMismatch,
    /// A rule of the domain rejected it.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// An operation of the store failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// Its mail was not delivered.
    #[error("the notification was not delivered")]
    Notification(#[from] NotifierError),
    /// The handler panicked.
    #[error("the handler panicked: {0}")]
    Panicked(String),
    /// The handler ran longer than allowed.
    #[error("the handler took longer than {} (worker.handler_timeout)", humantime::format_duration(*.0))]
    TimedOut(Duration),
    /// Its worker crashed repeatedly, twice while it was handled alone. The crash of the first delivery is not recorded.
    #[error("worker crashed repeatedly while handling this message ({0} recorded starts without an end)")]
    CrashLoop(u32),
    /// It was not tried: an earlier command for the same line or batch is retried first.
    #[error("waits for an earlier command for the same line or batch")]
    Waiting,
    /// The broker dead-lettered it.
    #[error("the broker dead-lettered the message: {0}")]
    DeadLetteredByBroker(String),
}

/// The reasons for which the broker dead-letters a message.
const DEATH_REASONS: [&str; 4] = ["rejected", "expired", "maxlen", "delivery_limit"];

/// How a failure is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureClass {
    /// Retried immediately, a few times, with jitter, and then after a delay; not an attempt.
    Conflict,
    /// Retried when the server is available; not an attempt.
    Outage,
    /// An attempt, retried after a delay; the last one is dead for this reason.
    Retryable(Reason),
    /// An attempt, retried for a long time: the receiver of a notification asked for this.
    Deferred,
    /// Dead immediately for this reason.
    Permanent(Reason),
    /// Not tried yet; not an attempt.
    Waiting,
}

/// The class of a failure.
#[must_use]
pub fn classify(failure: &Failure) -> FailureClass {
    match failure {
        Failure::Store(StoreError::Unavailable(_)) | Failure::Notification(NotifierError::Unavailable(_)) => {
            FailureClass::Outage
        }
        Failure::Store(StoreError::Conflict(_) | StoreError::Locked(_)) => FailureClass::Conflict,
        // A timeout is an attempt only after the store has answered a probe.
        Failure::Store(
            StoreError::Failed(_)
            | StoreError::Timeout(_)
            | StoreError::CommitUnknown(_)
            | StoreError::AlreadyExists(_),
        )
        | Failure::Panicked(_)
        | Failure::TimedOut(_) => FailureClass::Retryable(Reason::AttemptsExhausted),
        Failure::Notification(NotifierError::Deferred(_)) => FailureClass::Deferred,
        Failure::Rejected(_) | Failure::Notification(NotifierError::Rejected(_)) => {
            FailureClass::Retryable(Reason::Rejected)
        }
        Failure::Store(StoreError::InvalidData(_)) => FailureClass::Permanent(Reason::InvalidMessage),
        Failure::Waiting => FailureClass::Waiting,
        Failure::BodyMismatch => FailureClass::Permanent(Reason::MessageIdConflict),
        Failure::CrashLoop(_) => FailureClass::Permanent(Reason::CrashLoop),
        Failure::DeadLetteredByBroker(why) if why == "delivery_limit" => {
            FailureClass::Permanent(Reason::DeliveryLimit)
        }
        Failure::DeadLetteredByBroker(_) => FailureClass::Permanent(Reason::Rejected),
        Failure::DecodeError(undecodable) => FailureClass::Permanent(match undecodable {
            DecodeError::MissingMessageId => Reason::MissingMessageId,
            DecodeError::UnknownCommand(_) => Reason::UnknownCommand,
            DecodeError::TooLarge { .. } => Reason::TooLarge,
            DecodeError::InvalidMessageId | DecodeError::Content(_) | DecodeError::InvalidBody(_) => {
                Reason::InvalidMessage
            }
        }),
    }
}

/// What follows attempt number `attempts` of a message that was recorded `recorded` times. Conflicts and outages are no
/// attempts: no number of them is the last one.
#[must_use]
pub fn decide(failure: &Failure, attempts: u32, recorded: i64, policy: &RetryPolicy) -> RetryDecision {
    match classify(failure) {
        FailureClass::Permanent(reason) => RetryDecision::Dead(reason),
        FailureClass::Waiting => RetryDecision::Wait,
        FailureClass::Conflict | FailureClass::Outage => {
            RetryDecision::Postpone(policy.postponement(recorded))
        }
        FailureClass::Deferred => match policy.deferred_delay(attempts) {
            Some(delay) => RetryDecision::Retry(delay),
            None => RetryDecision::Dead(Reason::AttemptsExhausted),
        },
        FailureClass::Retryable(reason) if attempts >= policy.max_attempts => RetryDecision::Dead(reason),
        FailureClass::Retryable(_) => RetryDecision::Retry(policy.delay(attempts)),
    }
}

impl Failure {
    /// The error without its variable values, which failures with the same cause have in common.
    #[must_use]
    pub fn error_pattern(&self) -> String {
        match self {
            Self::Rejected(rejection) => rejection.rule().to_owned(),
            // The reason is a header, which a sender can forge.
            Self::DeadLetteredByBroker(why) if !DEATH_REASONS.contains(&why.as_str()) => {
                Self::DeadLetteredByBroker("…".into()).to_string()
            }
            other => without_values(&join_chain(other)),
        }
    }
}

/// Replaces numbers and quoted text by "…".
pub(super) fn without_values(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            '"' | '`' | '\'' => {
                let quote = character;
                pattern.push('…');
                while let Some(inside) = rest.next() {
                    match inside {
                        '\\' if quote == '"' => _ = rest.next(),
                        _ if inside == quote => break,
                        _ => {}
                    }
                }
            }
            '0'..='9' => {
                pattern.push('…');
                while rest.peek().is_some_and(char::is_ascii_digit) {
                    rest.next();
                }
            }
            other => pattern.push(other),
        }
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{BatchRef, Sku},
        ports::error::Cause,
    };

    fn store(error: fn(Cause) -> StoreError) -> Failure {
        error("".into()).into()
    }

    /// Section 3 of the contract, row by row.
    #[test]
    fn every_failure_has_its_class() {
        let invalid_sku = || Failure::Rejected(Rejection::InvalidSku(Sku::new("s").unwrap()));
        let too_large =
            DecodeError::TooLarge { part: "body", size: 2, limit: 1, setting: "limits.body_bytes" };
        let table = [
            (store(StoreError::Conflict), FailureClass::Conflict),
            (store(StoreError::Locked), FailureClass::Conflict),
            (store(StoreError::Unavailable), FailureClass::Outage),
            (store(StoreError::AlreadyExists), FailureClass::Retryable(Reason::AttemptsExhausted)),
            (store(StoreError::Failed), FailureClass::Retryable(Reason::AttemptsExhausted)),
            (store(StoreError::Timeout), FailureClass::Retryable(Reason::AttemptsExhausted)),
            (store(StoreError::CommitUnknown), FailureClass::Retryable(Reason::AttemptsExhausted)),
            (NotifierError::Unavailable("".into()).into(), FailureClass::Outage),
            (NotifierError::Deferred("".into()).into(), FailureClass::Deferred),
            (NotifierError::Rejected("".into()).into(), FailureClass::Retryable(Reason::Rejected)),
            (invalid_sku(), FailureClass::Retryable(Reason::Rejected)),
            (Failure::TimedOut(Duration::ZERO), FailureClass::Retryable(Reason::AttemptsExhausted)),
            (Failure::Panicked(String::new()), FailureClass::Retryable(Reason::AttemptsExhausted)),
            (DecodeError::InvalidBody(String::new()).into(), FailureClass::Permanent(Reason::InvalidMessage)),
            (DecodeError::InvalidMessageId.into(), FailureClass::Permanent(Reason::InvalidMessage)),
            (DecodeError::Content(String::new()).into(), FailureClass::Permanent(Reason::InvalidMessage)),
            (
                DecodeError::UnknownCommand(String::new()).into(),
                FailureClass::Permanent(Reason::UnknownCommand),
            ),
            (DecodeError::MissingMessageId.into(), FailureClass::Permanent(Reason::MissingMessageId)),
            (too_large.into(), FailureClass::Permanent(Reason::TooLarge)),
            (Failure::Waiting, FailureClass::Waiting),
            (Failure::BodyMismatch, FailureClass::Permanent(Reason::MessageIdConflict)),
            (store(StoreError::InvalidData), FailureClass::Permanent(Reason::InvalidMessage)),
            (Failure::CrashLoop(4), FailureClass::Permanent(Reason::CrashLoop)),
            (
                Failure::DeadLetteredByBroker("delivery_limit".into()),
                FailureClass::Permanent(Reason::DeliveryLimit),
            ),
            (Failure::DeadLetteredByBroker("rejected".into()), FailureClass::Permanent(Reason::Rejected)),
        ];
        for (failure, expected) in table {
            assert_eq!(classify(&failure), expected, "{failure}");
        }
    }

    #[test]
    fn after_the_last_attempt_a_message_is_dead() {
        let policy = RetryPolicy { max_attempts: 3, ..RetryPolicy::default() };
        let panicked = Failure::Panicked(String::new());
        assert!(matches!(decide(&panicked, 2, 1, &policy), RetryDecision::Retry(_)));
        assert_eq!(decide(&panicked, 3, 2, &policy), RetryDecision::Dead(Reason::AttemptsExhausted));
        assert_eq!(
            decide(&Failure::BodyMismatch, 1, 0, &policy),
            RetryDecision::Dead(Reason::MessageIdConflict)
        );
        for lasting in [StoreError::Conflict, StoreError::Locked, StoreError::Unavailable] {
            assert!(matches!(decide(&store(lasting), 3, 2, &policy), RetryDecision::Postpone(_)));
        }
    }

    #[test]
    fn failures_of_one_cause_have_one_pattern() {
        let missing =
            |name: &str| Failure::Rejected(Rejection::InvalidBatchref(BatchRef::new(name).unwrap()));
        assert_eq!(missing("b-1").error_pattern(), missing("b-2").error_pattern());
        assert_eq!(
            without_values("at line 3 column 17: unknown \"abc 1\", x='y'"),
            "at line … column …: unknown …, x=…"
        );
        assert_eq!(without_values("an open \"quote"), "an open …");
        assert_eq!(without_values(r#"a "quote \" inside" ends"#), "a … ends");
        let forged = |why: &str| Failure::DeadLetteredByBroker(why.into()).error_pattern();
        assert_eq!(forged("a"), forged("b"));
        assert_ne!(forged("rejected"), forged("expired"));
    }
}

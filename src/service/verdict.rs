//! From an error to what follows: section 3 of the contract as one pure function.

use std::time::Duration;

use crate::{
    domain::Rejection,
    ports::{
        ledger::{Next, Reason},
        notifier::NotifierError,
        store::StoreError,
    },
};

use super::{decode::Undecodable, delays::RetryPolicy};

/// Why a command was not handled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It cannot be read.
    #[error(transparent)]
    Undecodable(#[from] Undecodable),
    /// Its message id belongs to a message with another type or body, which was handled.
    #[error("a message of this id was handled before, with another type or body")]
    OtherBody,
    /// A rule of the domain said no.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The store did not do its part.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nobody was told.
    #[error(transparent)]
    NotTold(#[from] NotifierError),
    /// The handler panicked.
    #[error("the handler panicked: {0}")]
    Panicked(String),
    /// The handler took too long.
    #[error("the handler took longer than {} (worker.handler_timeout)", humantime::format_duration(*.0))]
    TimedOut(Duration),
    /// Its worker died each time it was handled.
    #[error("its worker died {0} times while it was being handled")]
    CrashLoop(u32),
    /// The broker put it aside.
    #[error("the broker put it aside: {0}")]
    PutAside(String),
}

/// What follows a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Again at once, a few times, with jitter; not an attempt.
    AtOnce,
    /// Nothing counts until the server is back.
    Hold,
    /// An attempt; the reason is for the last one.
    Later(Reason),
    /// No retry can mend it.
    Dead(Reason),
}

/// Judges a failure.
#[must_use]
pub fn verdict(failure: &Failure) -> Verdict {
    match failure {
        Failure::Store(StoreError::Unavailable(_)) | Failure::NotTold(NotifierError::Away(_)) => {
            Verdict::Hold
        }
        Failure::Store(StoreError::Conflict(_)) => Verdict::AtOnce,
        // Silence counts only once the store has answered a probe.
        Failure::Store(StoreError::Failed(_) | StoreError::Silent(_) | StoreError::CommitUnknown(_))
        | Failure::NotTold(NotifierError::PutOff(_))
        | Failure::Panicked(_)
        | Failure::TimedOut(_) => Verdict::Later(Reason::AttemptsExhausted),
        Failure::Rejected(_) | Failure::NotTold(NotifierError::Refused(_)) => {
            Verdict::Later(Reason::Rejected)
        }
        Failure::Store(StoreError::BadData(_)) => Verdict::Dead(Reason::InvalidMessage),
        Failure::OtherBody => Verdict::Dead(Reason::MessageIdConflict),
        Failure::CrashLoop(_) => Verdict::Dead(Reason::CrashLoop),
        Failure::PutAside(why) if why == "delivery_limit" => Verdict::Dead(Reason::DeliveryLimit),
        Failure::PutAside(_) => Verdict::Dead(Reason::Rejected),
        Failure::Undecodable(undecodable) => Verdict::Dead(match undecodable {
            Undecodable::MissingMessageId => Reason::MissingMessageId,
            Undecodable::UnknownCommand(_) => Reason::UnknownCommand,
            Undecodable::TooLarge { .. } => Reason::TooLarge,
            Undecodable::InvalidMessageId | Undecodable::Content(_) | Undecodable::InvalidBody(_) => {
                Reason::InvalidMessage
            }
        }),
    }
}

/// What follows the attempt that makes `attempts` of them. A conflict that outlasted its tries at once is an attempt
/// like any other.
#[must_use]
pub fn next(failure: &Failure, attempts: u32, policy: &RetryPolicy) -> Next {
    match verdict(failure) {
        Verdict::Dead(reason) => Next::Dead(reason),
        Verdict::Later(reason) if attempts >= policy.max_attempts => Next::Dead(reason),
        Verdict::AtOnce | Verdict::Hold if attempts >= policy.max_attempts => {
            Next::Dead(Reason::AttemptsExhausted)
        }
        Verdict::Later(_) | Verdict::AtOnce | Verdict::Hold => Next::Retry(policy.delay(attempts)),
    }
}

impl Failure {
    /// The error without its variable values: what failures of one cause have in common.
    #[must_use]
    pub fn pattern(&self) -> String {
        match self {
            Self::Rejected(rejection) => rejection.rule().to_owned(),
            other => without_values(&other.to_string()),
        }
    }
}

/// Replaces numbers and quoted text by "…".
fn without_values(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            '"' | '`' | '\'' => {
                let quote = character;
                pattern.push('…');
                for inside in rest.by_ref() {
                    if inside == quote {
                        break;
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
    use crate::domain::{Reference, Sku};

    fn store(error: fn(String) -> StoreError) -> Failure {
        error(String::new()).into()
    }

    /// Section 3 of the contract, row by row.
    #[test]
    fn every_failure_has_its_verdict() {
        let invalid_sku = || Failure::Rejected(Rejection::InvalidSku(Sku::new("s").unwrap()));
        let too_large = Undecodable::TooLarge { what: "body", size: 2, limit: 1 };
        let table = [
            (store(StoreError::Conflict), Verdict::AtOnce),
            (store(StoreError::Unavailable), Verdict::Hold),
            (store(StoreError::Failed), Verdict::Later(Reason::AttemptsExhausted)),
            (store(StoreError::Silent), Verdict::Later(Reason::AttemptsExhausted)),
            (store(StoreError::CommitUnknown), Verdict::Later(Reason::AttemptsExhausted)),
            (NotifierError::Away(String::new()).into(), Verdict::Hold),
            (NotifierError::PutOff(String::new()).into(), Verdict::Later(Reason::AttemptsExhausted)),
            (NotifierError::Refused(String::new()).into(), Verdict::Later(Reason::Rejected)),
            (invalid_sku(), Verdict::Later(Reason::Rejected)),
            (Failure::TimedOut(Duration::ZERO), Verdict::Later(Reason::AttemptsExhausted)),
            (Failure::Panicked(String::new()), Verdict::Later(Reason::AttemptsExhausted)),
            (Undecodable::InvalidBody(String::new()).into(), Verdict::Dead(Reason::InvalidMessage)),
            (Undecodable::InvalidMessageId.into(), Verdict::Dead(Reason::InvalidMessage)),
            (Undecodable::Content(String::new()).into(), Verdict::Dead(Reason::InvalidMessage)),
            (Undecodable::UnknownCommand(String::new()).into(), Verdict::Dead(Reason::UnknownCommand)),
            (Undecodable::MissingMessageId.into(), Verdict::Dead(Reason::MissingMessageId)),
            (too_large.into(), Verdict::Dead(Reason::TooLarge)),
            (Failure::OtherBody, Verdict::Dead(Reason::MessageIdConflict)),
            (store(StoreError::BadData), Verdict::Dead(Reason::InvalidMessage)),
            (Failure::CrashLoop(4), Verdict::Dead(Reason::CrashLoop)),
            (Failure::PutAside("delivery_limit".into()), Verdict::Dead(Reason::DeliveryLimit)),
            (Failure::PutAside("rejected".into()), Verdict::Dead(Reason::Rejected)),
        ];
        for (failure, expected) in table {
            assert_eq!(verdict(&failure), expected, "{failure}");
        }
    }

    #[test]
    fn the_last_attempt_is_followed_by_death() {
        let policy = RetryPolicy { max_attempts: 3, ..RetryPolicy::default() };
        let panicked = Failure::Panicked(String::new());
        assert!(matches!(next(&panicked, 2, &policy), Next::Retry(_)));
        assert_eq!(next(&panicked, 3, &policy), Next::Dead(Reason::AttemptsExhausted));
        assert_eq!(next(&Failure::OtherBody, 1, &policy), Next::Dead(Reason::MessageIdConflict));
        for lasting in [store(StoreError::Conflict), store(StoreError::Unavailable)] {
            assert!(matches!(next(&lasting, 2, &policy), Next::Retry(_)), "{lasting}");
            assert_eq!(next(&lasting, 3, &policy), Next::Dead(Reason::AttemptsExhausted), "{lasting}");
        }
    }

    #[test]
    fn a_conflict_that_outlasts_every_attempt_is_dead() {
        let policy = RetryPolicy { max_attempts: 3, ..RetryPolicy::default() };
        let conflict = store(StoreError::Conflict);
        assert!(matches!(next(&conflict, 2, &policy), Next::Retry(_)));
        for attempts in [3, 4] {
            assert_eq!(next(&conflict, attempts, &policy), Next::Dead(Reason::AttemptsExhausted));
        }
    }

    #[test]
    fn failures_of_one_cause_have_one_pattern() {
        let missing =
            |name: &str| Failure::Rejected(Rejection::InvalidBatchref(Reference::new(name).unwrap()));
        assert_eq!(missing("b-1").pattern(), missing("b-2").pattern());
        assert_eq!(
            without_values("at line 3 column 17: unknown \"abc 1\", x='y'"),
            "at line … column …: unknown …, x=…"
        );
        assert_eq!(without_values("an open \"quote"), "an open …");
    }
}

//! Responses: plain texts of the book where it defines them, and JSON otherwise. No response contains the cause of a
//! server error.

use axum::{
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::json;
use tracing::warn;

use crate::{
    ports::error::{StoreError, error_text},
    service::{decode::DecodeError, failure::Failure, message_bus::CommandOutcome},
};

use super::batcher::BatcherError;

/// When to retry, in seconds.
const SOON: (HeaderName, &str) = (header::RETRY_AFTER, "1");

/// The outcome of a command; `done` is the status of success.
pub(super) fn command(outcome: Result<CommandOutcome, BatcherError>, done: StatusCode) -> Response {
    match outcome {
        Ok(CommandOutcome::Handled | CommandOutcome::Duplicate) => (done, "OK").into_response(),
        Ok(CommandOutcome::Reported(failure) | CommandOutcome::Recorded(failure, _)) => refused(&failure),
        Err(BatcherError::Overloaded) => not_now("too many requests wait; this one was not begun"),
        Ok(CommandOutcome::Unknown) | Err(BatcherError::Unavailable) => unavailable(),
    }
}

fn refused(failure: &Failure) -> Response {
    let status = match failure {
        Failure::DecodeError(DecodeError::TooLarge { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
        Failure::DecodeError(DecodeError::Content(_)) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Failure::BodyMismatch => StatusCode::CONFLICT,
        Failure::DecodeError(_) | Failure::Rejected(_) => StatusCode::BAD_REQUEST,
        Failure::Store(StoreError::InvalidData(_)) => {
            log(failure);
            return message(StatusCode::BAD_REQUEST, "a value in the request cannot be stored");
        }
        Failure::Store(_) | Failure::TimedOut(_) => {
            log(failure);
            return not_now("it was not done, for something was in its way: ask again");
        }
        Failure::Notification(_)
        | Failure::Panicked(_)
        | Failure::CrashLoop(_)
        | Failure::DeadLetteredByBroker(_) => {
            log(failure);
            return message(
                StatusCode::INTERNAL_SERVER_ERROR,
                "it was not done, by a fault of ours; the log has it",
            );
        }
    };
    message(status, &failure.to_string())
}

fn log(failure: &Failure) {
    warn!(error = error_text(failure), "a request was not handled");
}

/// A server behind us is away, or was too slow, and a command was on its way.
pub(super) fn unavailable() -> Response {
    not_now("a server is away; whether it was done is not known: ask again, under the same Idempotency-Key")
}

/// The same, and nothing but an answer was asked for.
pub(super) fn outcome_unknown() -> Response {
    not_now("a server is away; ask again")
}

fn not_now(text: &str) -> Response {
    ([SOON], message(StatusCode::SERVICE_UNAVAILABLE, text)).into_response()
}

/// `{"message": …}`.
pub(super) fn message(status: StatusCode, text: &str) -> Response {
    json(status, &json!({ "message": text }))
}

pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let body = serde_json::to_string(value).expect("what we say is always JSON");
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::body::to_bytes;

    use super::*;
    use crate::ports::error::{Cause, NotifierError};

    const SECRET: &str = "postgres://allocation:secret@db.internal";

    #[tokio::test]
    async fn a_response_contains_no_cause_of_a_failure() {
        let stores: [fn(Cause) -> StoreError; 6] = [
            StoreError::Unavailable,
            StoreError::Timeout,
            StoreError::Conflict,
            StoreError::InvalidData,
            StoreError::CommitUnknown,
            StoreError::Failed,
        ];
        let notifiers: [fn(Cause) -> NotifierError; 3] =
            [NotifierError::Unavailable, NotifierError::Deferred, NotifierError::Rejected];
        let mut failures = vec![
            Failure::Panicked(SECRET.into()),
            Failure::DeadLetteredByBroker(SECRET.into()),
            Failure::TimedOut(Duration::from_secs(1)),
        ];
        failures.extend(stores.map(|class| class(SECRET.into()).into()));
        failures.extend(notifiers.map(|class| class(SECRET.into()).into()));
        for failure in failures {
            let response = command(Ok(CommandOutcome::Reported(failure.clone())), StatusCode::OK);
            let body = to_bytes(response.into_body(), 1000).await.unwrap();
            let body = std::str::from_utf8(&body).unwrap();
            assert!(body.starts_with("{\"message\":\""), "{failure:?}: {body}");
            assert!(!body.contains("secret"), "{failure:?}: {body}");
        }
    }
}

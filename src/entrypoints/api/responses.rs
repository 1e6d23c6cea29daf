//! Responses: the book's plain words, and JSON for everything else.

use axum::{
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use tracing::warn;

use crate::{
    ports::error::{StoreError, error_text},
    service::{decode_error::DecodeError, failure::Failure, outcome::CommandOutcome},
};

use super::{super::json_response::json, batcher::BatcherError, request_body::BodyError};

/// When to retry, in seconds.
const RETRY_SOON: (HeaderName, &str) = (header::RETRY_AFTER, "1");

/// The response to a command; `success` is the status for one that was handled.
pub(super) fn command(outcome: Result<CommandOutcome, BatcherError>, success: StatusCode) -> Response {
    match outcome {
        Ok(CommandOutcome::Handled | CommandOutcome::Duplicate) => (success, "OK").into_response(),
        // It is recorded, and handled after an earlier command for the same line or batch.
        Ok(CommandOutcome::Recorded(Failure::Waiting, _)) => (StatusCode::ACCEPTED, "OK").into_response(),
        Ok(CommandOutcome::Reported(failure) | CommandOutcome::Recorded(failure, _)) => failed(&failure),
        Ok(CommandOutcome::Unknown) | Err(BatcherError::Unavailable) => outcome_unknown(),
        Err(BatcherError::Overloaded) => {
            retry_later("Too many requests are waiting. The command was not processed; retry the request")
        }
        Err(BatcherError::MissingOutcome) => {
            internal_error("Internal error. The command may have been processed; see the server log")
        }
    }
}

fn failed(failure: &Failure) -> Response {
    let status = match failure {
        Failure::DecodeError(DecodeError::TooLarge { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
        Failure::DecodeError(DecodeError::Content(_)) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Failure::BodyMismatch => {
            return message(
                StatusCode::UNPROCESSABLE_ENTITY,
                "Idempotency-Key was already used with another command or body. The command was not processed",
            );
        }
        Failure::DecodeError(_) | Failure::Rejected(_) => StatusCode::BAD_REQUEST,
        Failure::Store(StoreError::InvalidData(_)) => {
            log(failure);
            return message(StatusCode::BAD_REQUEST, "a value in the request cannot be stored");
        }
        Failure::Store(_) | Failure::TimedOut(_) | Failure::Waiting => {
            log(failure);
            return not_processed();
        }
        Failure::Notification(_)
        | Failure::Panicked(_)
        | Failure::CrashLoop(_)
        | Failure::DeadLetteredByBroker(_) => {
            log(failure);
            return internal_error("Internal error. The command was not processed; see the server log");
        }
    };
    message(status, &failure.to_string())
}

/// The response to a request whose body was not read; `limit` is its largest size.
pub(super) fn body_not_read(error: BodyError, limit: usize) -> Response {
    match error {
        BodyError::TooLarge => {
            let text = format!("the body has more than {limit} bytes (limits.body_bytes)");
            message(StatusCode::PAYLOAD_TOO_LARGE, &text)
        }
        BodyError::Incomplete => message(StatusCode::BAD_REQUEST, "the body is incomplete"),
        BodyError::TimedOut => {
            message(StatusCode::REQUEST_TIMEOUT, "the body was not received in time (api.timeout)")
        }
        BodyError::OutOfMemory => retry_later(
            "Too many large requests are being processed. The command was not processed; retry the request",
        ),
    }
}

/// Another transaction prevented the command.
fn not_processed() -> Response {
    retry_later("The command was not processed because of a temporary conflict. Retry the request")
}

/// The log has the whole chain of an error, the response has not.
fn log(failure: &Failure) {
    warn!(error = error_text(failure), "request failed");
}

/// A server is unavailable or too slow, and the command may have been processed.
pub(super) fn outcome_unknown() -> Response {
    retry_later(
        "Service unavailable. The command may have been processed; retry with the same Idempotency-Key",
    )
}

/// A server is unavailable or too slow for a query.
pub(super) fn unavailable() -> Response {
    retry_later("Service unavailable. Retry the request")
}

fn retry_later(text: &str) -> Response {
    ([RETRY_SOON], message(StatusCode::SERVICE_UNAVAILABLE, text)).into_response()
}

fn internal_error(text: &str) -> Response {
    message(StatusCode::INTERNAL_SERVER_ERROR, text)
}

/// `{"message": …}`.
pub(super) fn message(status: StatusCode, text: &str) -> Response {
    json(status, &serde_json::json!({ "message": text }))
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
        let stores: [fn(Cause) -> StoreError; 8] = [
            StoreError::Unavailable,
            StoreError::Timeout,
            StoreError::Conflict,
            StoreError::AlreadyExists,
            StoreError::Locked,
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
            for internal in ["secret", "database", "SQLSTATE", "store"] {
                assert!(
                    !body.contains(&format!("{internal} ")) && !body.contains(SECRET),
                    "{failure:?}: {body}"
                );
            }
        }
    }
}

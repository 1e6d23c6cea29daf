//! What is said back: the book's few words, and JSON for everything else.

use axum::{
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::json;
use tracing::warn;

use crate::{
    ports::store::StoreError,
    service::{decode::DecodeError, failure::Failure, message_bus::CommandOutcome},
};

use super::batcher::BatcherError;

/// How soon to ask again, in seconds.
const SOON: (HeaderName, &str) = (header::RETRY_AFTER, "1");

/// What a command came to; `done` is what success is called here.
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
        Failure::DecodeError(_) | Failure::Rejected(_) | Failure::Store(StoreError::BadData(_)) => {
            StatusCode::BAD_REQUEST
        }
        Failure::Store(_) | Failure::TimedOut(_) => {
            warn!(%failure, "a request was not handled");
            return not_now("it was not done, for something was in its way: ask again");
        }
        Failure::Notification(_)
        | Failure::Panicked(_)
        | Failure::CrashLoop(_)
        | Failure::DeadLetteredByBroker(_) => {
            warn!(%failure, "a request was not handled");
            return message(
                StatusCode::INTERNAL_SERVER_ERROR,
                "it was not done, by a fault of ours; the log has it",
            );
        }
    };
    message(status, &failure.to_string())
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

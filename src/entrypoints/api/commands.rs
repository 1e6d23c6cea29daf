//! Requests that are commands: each becomes a message and is handled like one.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::{
    ports::queue::{Message, QueueName},
    service::{decode::checked_id, received::ReceivedMessage},
};

use super::{responses, state::ApiState};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

pub(super) async fn add_batch(
    State(state): State<Arc<ApiState>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    command(&state, QueueName::Stock, "create_batch", StatusCode::CREATED, &headers, body).await
}

pub(super) async fn allocate(State(state): State<Arc<ApiState>>, headers: HeaderMap, body: Body) -> Response {
    command(&state, QueueName::Orders, "allocate", StatusCode::ACCEPTED, &headers, body).await
}

pub(super) async fn deallocate(
    State(state): State<Arc<ApiState>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    command(&state, QueueName::Orders, "deallocate", StatusCode::ACCEPTED, &headers, body).await
}

pub(super) async fn change_batch_quantity(
    State(state): State<Arc<ApiState>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    command(&state, QueueName::Stock, "change_batch_quantity", StatusCode::ACCEPTED, &headers, body).await
}

async fn command(
    state: &ApiState,
    queue: QueueName,
    kind: &str,
    success: StatusCode,
    headers: &HeaderMap,
    body: Body,
) -> Response {
    let deadline = Instant::now() + state.api.timeout;
    let limit = state.api.limits.body_bytes;
    // The memory of the body stays reserved until the response.
    let mut body = match state.body_memory.read(body, limit, deadline).await {
        Ok(body) => body,
        Err(error) => return responses::body_not_read(error, limit),
    };
    let message = match message(kind, headers, std::mem::take(&mut body.bytes)) {
        Ok(message) => message,
        Err(response) => return *response,
    };
    if !state.api.checked.is_cancelled() {
        return responses::unavailable();
    }
    let received = ReceivedMessage::read_awaited(queue, message, state.api.limits);
    match timeout_at(deadline, state.batcher.handle(queue, received)).await {
        Ok(outcome) => responses::command(outcome, success),
        Err(_) => responses::outcome_unknown(),
    }
}

/// The message with the command, or the response to a request that cannot become one.
fn message(kind: &str, headers: &HeaderMap, body: Vec<u8>) -> Result<Message, Box<Response>> {
    let bad = |status, text: &str| Box::new(responses::message(status, text));
    let text = |name: &HeaderName| {
        text(headers, name)
            .map_err(|NotText| bad(StatusCode::BAD_REQUEST, &format!("the header {name} is not UTF-8")))
    };
    let content_type = text(&header::CONTENT_TYPE)?;
    // A form on a page of another site can be sent without a content type.
    if content_type.as_deref().unwrap_or_default().trim().is_empty() {
        return Err(bad(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json"));
    }
    let Some(message_id) = message_id(headers) else {
        return Err(bad(
            StatusCode::BAD_REQUEST,
            "Idempotency-Key must be one value of 1 to 200 printable UTF-8 characters, at most 255 bytes",
        ));
    };
    Ok(Message {
        kind: kind.into(),
        message_id: Some(message_id),
        traceparent: only(headers, &TRACEPARENT).unwrap_or_default(),
        tracestate: list(headers, &TRACESTATE),
        content_type,
        content_encoding: text(&header::CONTENT_ENCODING)?,
        body: body.into(),
        ..Message::default()
    })
}

/// The id of the message: the key, or a new id without one. None if the key is not a message id.
fn message_id(headers: &HeaderMap) -> Option<String> {
    match only(headers, &IDEMPOTENCY_KEY) {
        Ok(None) => Some(new_id()),
        Ok(Some(key)) => checked_id(&key).is_ok().then_some(key),
        Err(NotText) => None,
    }
}

/// A header whose value is not UTF-8, or that has two values.
struct NotText;

/// The text of a header that may occur once.
fn only(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, NotText> {
    match headers.get_all(name).iter().nth(1) {
        Some(_) => Err(NotText),
        None => text(headers, name),
    }
}

/// The elements of a header that may occur several times, and that is one list; none if a part of it is not UTF-8.
fn list(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let parts: Result<Vec<_>, _> =
        headers.get_all(name).iter().map(|value| std::str::from_utf8(value.as_bytes())).collect();
    parts.ok().filter(|parts| !parts.is_empty()).map(|parts| parts.join(","))
}

/// The text of a header. Nothing is replaced: two values must not become one.
fn text(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, NotText> {
    let text = |value: &HeaderValue| String::from_utf8(value.as_bytes().to_vec()).map_err(|_| NotText);
    headers.get(name).map(text).transpose()
}

#[expect(clippy::disallowed_methods, reason = "a request without a key is never a duplicate")]
fn new_id() -> String {
    Uuid::now_v7().to_string()
}

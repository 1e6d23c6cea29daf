//! Requests that are commands: each becomes a message and is handled like one.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, StatusCode, header},
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
    let received = ReceivedMessage::read_awaited(queue, message, state.api.limits);
    match timeout_at(deadline, state.batcher.handle(queue, received)).await {
        Ok(outcome) => responses::command(outcome, success),
        Err(_) => responses::outcome_unknown(),
    }
}

/// The message with the command, or the response to a request that cannot become one.
fn message(kind: &str, headers: &HeaderMap, body: Vec<u8>) -> Result<Message, Box<Response>> {
    let bad = |status, text: &str| Err(Box::new(responses::message(status, text)));
    let content_type = text(headers, &header::CONTENT_TYPE);
    // A form on a page of another site can be sent without a content type.
    if content_type.as_deref().unwrap_or_default().trim().is_empty() {
        return bad(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json");
    }
    let message_id = text(headers, &IDEMPOTENCY_KEY).unwrap_or_else(new_id);
    if checked_id(&message_id).is_err() {
        return bad(StatusCode::BAD_REQUEST, "Idempotency-Key must be 1 to 200 printable characters");
    }
    Ok(Message {
        kind: kind.into(),
        message_id: Some(message_id),
        traceparent: text(headers, &TRACEPARENT),
        content_type,
        content_encoding: text(headers, &header::CONTENT_ENCODING),
        body: body.into(),
        ..Message::default()
    })
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

#[expect(clippy::disallowed_methods, reason = "a request without a key is never a duplicate")]
fn new_id() -> String {
    Uuid::now_v7().to_string()
}

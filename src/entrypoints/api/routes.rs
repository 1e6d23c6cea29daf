//! Requests and their responses: the table of contents.

use std::sync::Arc;

use axum::{
    Router,
    body::{Body, BodyDataStream},
    extract::{FromRequestParts, Path, State},
    http::{HeaderMap, HeaderName, StatusCode, header, request::Parts},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::StreamExt as _;
use tokio::time::{Instant, timeout_at};
use tracing::warn;
use uuid::Uuid;

use crate::{
    ports::{
        error::error_text,
        queue::{Message, QueueName},
    },
    service::{decode::checked_id, received::ReceivedMessage},
};

use super::{ApiState, auth, health, responses};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// A body that is too large is read on to so many times its limit, and thrown away: a client that is still writing
/// would not read the answer.
const DRAIN_FACTOR: usize = 64;

pub(super) fn router(shared: ApiState) -> Router {
    let shared = Arc::new(shared);
    Router::new()
        .route("/add_batch", post(add_batch))
        .route("/allocate", post(allocate))
        .route("/deallocate", post(deallocate))
        .route("/change_batch_quantity", post(change_batch_quantity))
        .route("/allocations/{orderid}", get(allocations))
        .route("/orders/{orderid}", get(order))
        .route("/availability/{sku}", get(availability))
        .route_layer(middleware::from_fn_with_state(shared.clone(), auth::guard))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .fallback(async || responses::message(StatusCode::NOT_FOUND, "there is nothing here"))
        .method_not_allowed_fallback(async || {
            responses::message(StatusCode::METHOD_NOT_ALLOWED, "this method is not allowed here; see Allow")
        })
        .with_state(shared)
}

async fn add_batch(State(shared): State<Arc<ApiState>>, headers: HeaderMap, body: Body) -> Response {
    command(&shared, QueueName::Stock, "create_batch", StatusCode::CREATED, &headers, body).await
}

async fn allocate(State(shared): State<Arc<ApiState>>, headers: HeaderMap, body: Body) -> Response {
    command(&shared, QueueName::Orders, "allocate", StatusCode::ACCEPTED, &headers, body).await
}

async fn deallocate(State(shared): State<Arc<ApiState>>, headers: HeaderMap, body: Body) -> Response {
    command(&shared, QueueName::Orders, "deallocate", StatusCode::ACCEPTED, &headers, body).await
}

async fn change_batch_quantity(
    State(shared): State<Arc<ApiState>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    command(&shared, QueueName::Stock, "change_batch_quantity", StatusCode::ACCEPTED, &headers, body).await
}

/// As the book's API says it: only what sits in a batch, and two words when nothing does.
async fn allocations(State(shared): State<Arc<ApiState>>, PathParam(orderid): PathParam) -> Response {
    match with_timeout(&shared, shared.api.views.allocations(&orderid)).await {
        Ok(allocations) if allocations.is_empty() => (StatusCode::NOT_FOUND, "not found").into_response(),
        Ok(allocations) => responses::json(StatusCode::OK, &allocations),
        Err(error) => unanswered(&error),
    }
}

async fn order(State(shared): State<Arc<ApiState>>, PathParam(orderid): PathParam) -> Response {
    match with_timeout(&shared, shared.api.views.order(&orderid)).await {
        Ok(Some(order)) => responses::json(StatusCode::OK, &order),
        Ok(None) => responses::message(StatusCode::NOT_FOUND, "no line of this order is known"),
        Err(error) => unanswered(&error),
    }
}

async fn availability(State(shared): State<Arc<ApiState>>, PathParam(sku): PathParam) -> Response {
    match with_timeout(&shared, shared.api.views.availability(&sku)).await {
        Ok(Some(availability)) => responses::json(StatusCode::OK, &availability),
        Ok(None) => responses::message(StatusCode::NOT_FOUND, "no batch of this SKU was ever known"),
        Err(error) => unanswered(&error),
    }
}

/// The name at the end of a path.
struct PathParam(String);

impl<S: Send + Sync> FromRequestParts<S> for PathParam {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let bad = |text: &str| responses::message(StatusCode::BAD_REQUEST, text);
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(name)) if name.contains('\0') => Err(bad("no name contains a NUL character")),
            Ok(Path(name)) => Ok(Self(name)),
            Err(unreadable) => Err(bad(&unreadable.body_text())),
        }
    }
}

async fn with_timeout<T, E: std::error::Error>(
    shared: &ApiState,
    question: impl Future<Output = Result<T, E>>,
) -> Result<T, String> {
    match tokio::time::timeout(shared.api.timeout, question).await {
        Ok(answer) => answer.map_err(|error| error_text(&error)),
        Err(_) => Err(format!("no answer within {:?}", shared.api.timeout)),
    }
}

fn unanswered(error: &str) -> Response {
    warn!(error, "a question was not answered");
    responses::outcome_unknown()
}

/// From a request to a command, as a message would have brought it, and back.
async fn command(
    shared: &ApiState,
    queue: QueueName,
    kind: &str,
    done: StatusCode,
    headers: &HeaderMap,
    body: Body,
) -> Response {
    let text = |name: &HeaderName| {
        headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let content_type = text(&header::CONTENT_TYPE);
    if content_type.as_deref().unwrap_or_default().trim().is_empty() {
        // Whoever must say what they send cannot be a form on somebody's page.
        return responses::message(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Content-Type must be application/json",
        );
    }
    let message_id = text(&IDEMPOTENCY_KEY).unwrap_or_else(new_id);
    if checked_id(&message_id).is_err() {
        let must_be = "Idempotency-Key must be 1 to 200 printable characters";
        return responses::message(StatusCode::BAD_REQUEST, must_be);
    }
    let (deadline, limit) = (Instant::now() + shared.api.timeout, shared.api.limits.body_bytes);
    let body = timeout_at(deadline, read(body.into_data_stream(), limit));
    let body = match body.await {
        Ok(Some(body)) if body.len() > limit => {
            let too_large = format!("the body has more than {limit} bytes (limits.body_bytes)");
            return responses::message(StatusCode::PAYLOAD_TOO_LARGE, &too_large);
        }
        Ok(Some(body)) => body,
        Ok(None) => return responses::message(StatusCode::BAD_REQUEST, "the body broke off"),
        Err(_) => {
            return responses::message(StatusCode::REQUEST_TIMEOUT, "the body took too long (api.timeout)");
        }
    };
    let message = Message {
        kind: kind.into(),
        message_id: Some(message_id),
        traceparent: text(&TRACEPARENT),
        content_type,
        content_encoding: text(&header::CONTENT_ENCODING),
        body,
        ..Message::default()
    };
    let asked = shared.desk.ask(queue, ReceivedMessage::read_awaited(message, shared.api.limits));
    match timeout_at(deadline, asked).await {
        Ok(outcome) => responses::command(outcome, done),
        Err(_) => responses::unavailable(),
    }
}

/// Reads a body, and of one that is too large a little more than the limit. None if it broke off.
async fn read(mut body: BodyDataStream, limit: usize) -> Option<Vec<u8>> {
    let (mut kept, mut thrown_away) = (Vec::new(), 0);
    while let Some(part) = body.next().await {
        let part = part.ok()?;
        if kept.len() <= limit {
            kept.extend_from_slice(&part);
        } else {
            thrown_away += part.len();
        }
        if thrown_away > DRAIN_FACTOR * limit {
            break;
        }
    }
    Some(kept)
}

#[expect(clippy::disallowed_methods, reason = "a request without a key is nobody's repeat")]
fn new_id() -> String {
    Uuid::now_v7().to_string()
}

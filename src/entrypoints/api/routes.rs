//! The routes, and the requests that are queries.

use std::sync::Arc;

use axum::{
    Router,
    extract::{FromRequestParts, Path, State},
    http::{StatusCode, request::Parts},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tracing::warn;

use crate::ports::error::error_text;

use super::{super::json_response::json, auth, commands, observed, responses, state::ApiState};

pub(super) fn router(state: ApiState) -> Router {
    let state = Arc::new(state);
    let health = state.api.health.router();
    Router::new()
        .route("/add_batch", post(commands::add_batch))
        .route("/allocate", post(commands::allocate))
        .route("/deallocate", post(commands::deallocate))
        .route("/change_batch_quantity", post(commands::change_batch_quantity))
        .route("/allocations/{orderid}", get(allocations))
        .route("/orders/{orderid}", get(order))
        .route("/availability/{sku}", get(availability))
        .route_layer(middleware::from_fn_with_state(state.clone(), auth::guard))
        .merge(health)
        .fallback(async || responses::message(StatusCode::NOT_FOUND, "no such path"))
        .method_not_allowed_fallback(async || {
            responses::message(StatusCode::METHOD_NOT_ALLOWED, "method not allowed; see the header Allow")
        })
        .layer(middleware::from_fn_with_state(state.clone(), observed::report))
        .with_state(state)
}

/// As in the book: only allocated lines, and plain text if there is none.
async fn allocations(State(state): State<Arc<ApiState>>, PathParam(orderid): PathParam) -> Response {
    match with_timeout(&state, state.api.views.allocations(&orderid)).await {
        Ok(allocations) if allocations.is_empty() => (StatusCode::NOT_FOUND, "not found").into_response(),
        Ok(allocations) => json(StatusCode::OK, &allocations),
        Err(error) => unanswered(&error),
    }
}

async fn order(State(state): State<Arc<ApiState>>, PathParam(orderid): PathParam) -> Response {
    match with_timeout(&state, state.api.views.order(&orderid)).await {
        Ok(Some(order)) => json(StatusCode::OK, &order),
        Ok(None) => responses::message(StatusCode::NOT_FOUND, "no line of this order is known"),
        Err(error) => unanswered(&error),
    }
}

async fn availability(State(state): State<Arc<ApiState>>, PathParam(sku): PathParam) -> Response {
    match with_timeout(&state, state.api.views.availability(&sku)).await {
        Ok(Some(availability)) => json(StatusCode::OK, &availability),
        Ok(None) => responses::message(StatusCode::NOT_FOUND, "no batch of this SKU is known"),
        Err(error) => unanswered(&error),
    }
}

/// The last segment of a path.
struct PathParam(String);

impl<S: Send + Sync> FromRequestParts<S> for PathParam {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let bad = |text: &str| responses::message(StatusCode::BAD_REQUEST, text);
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(name)) if name.contains('\0') => Err(bad("a name cannot contain a NUL character")),
            Ok(Path(name)) => Ok(Self(name)),
            Err(unreadable) => Err(bad(&unreadable.body_text())),
        }
    }
}

async fn with_timeout<T, E: std::error::Error>(
    state: &ApiState,
    query: impl Future<Output = Result<T, E>>,
) -> Result<T, String> {
    match tokio::time::timeout(state.api.timeout, query).await {
        Ok(answer) => answer.map_err(|error| error_text(&error)),
        Err(_) => Err(format!("no answer within {:?}", state.api.timeout)),
    }
}

fn unanswered(error: &str) -> Response {
    warn!(error, "query failed");
    responses::unavailable()
}

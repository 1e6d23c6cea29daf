//! Responses in JSON.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde::Serialize;

pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let body = serde_json::to_string(value).expect("responses are serializable");
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

//! Who may ask: whoever knows the token; without one, whoever means this machine by the name they call it.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{ApiState, responses};

pub(super) async fn guard(State(shared): State<Arc<ApiState>>, request: Request, next: Next) -> Response {
    match &shared.api.token {
        Some(token) if !token_matches(token, request.headers()) => {
            let refused = responses::message(
                StatusCode::UNAUTHORIZED,
                "Authorization: Bearer TOKEN is needed (api.token)",
            );
            ([(header::WWW_AUTHENTICATE, "Bearer")], refused).into_response()
        }
        // A page in somebody's browser can have its own name lead to this machine; it cannot lie about the name.
        None if !is_local_host(&request) => responses::message(
            StatusCode::MISDIRECTED_REQUEST,
            "only localhost is served without a token (Host; api.token)",
        ),
        _ => next.run(request).await,
    }
}

/// Compares in a time that tells nothing of the token.
fn token_matches(token: &str, headers: &HeaderMap) -> bool {
    let said = headers.get(header::AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
    let Some((scheme, said)) = said.split_at_checked("Bearer ".len()) else { return false };
    let same = Sha256::digest(said).as_slice().ct_eq(Sha256::digest(token).as_slice());
    scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(same)
}

fn is_local_host(request: &Request) -> bool {
    let host = request.headers().get(header::HOST).map(|host| host.to_str().unwrap_or("?"));
    host.or_else(|| request.uri().host()).is_none_or(is_local)
}

/// A host as it stands in a URL, with or without port.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(literal) => literal.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        for local in
            ["localhost", "LOCALHOST:8080", "127.0.0.1:8080", "127.9.9.9", "[::1]:8080", "a.localhost."]
        {
            assert!(is_local(local), "{local}");
        }
        for other in
            ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8080", "10.0.0.1", "", "?"]
        {
            assert!(!is_local(other), "{other}");
        }
    }

    #[test]
    fn only_the_token_itself_will_do() {
        let accepted = |authorization: &str| {
            let headers = [(header::AUTHORIZATION, authorization.parse().unwrap())].into_iter().collect();
            token_matches("s3cret", &headers)
        };
        assert!(accepted("Bearer s3cret") && accepted("bearer s3cret"));
        for wrong in ["", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3crets", "Basic s3cret", "s3cret"] {
            assert!(!accepted(wrong), "{wrong:?}");
        }
    }
}

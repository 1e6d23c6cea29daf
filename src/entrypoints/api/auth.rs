//! Access control: clients need the token; without one, the `Host` of a request must be a name of this machine.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tracing::warn;

use super::{super::connections::Peer, responses, state::ApiState};

pub(super) async fn guard(State(state): State<Arc<ApiState>>, request: Request, next: Next) -> Response {
    match &state.api.token {
        Some(token) if !token_matches(token, request.headers()) => {
            let peer = request.extensions().get().map(|Peer(peer)| peer.to_string());
            warn!(peer, "HTTP login refused: the token is missing or wrong (api.token)");
            let refused = responses::message(
                StatusCode::UNAUTHORIZED,
                "Authorization: Bearer TOKEN is required (api.token)",
            );
            ([(header::WWW_AUTHENTICATE, "Bearer")], refused).into_response()
        }
        // A web page can make its own name resolve to this machine (DNS rebinding), but the browser sends that name.
        None if !is_local_host(&request) => responses::message(
            StatusCode::MISDIRECTED_REQUEST,
            "without a token only localhost is served (Host; api.token)",
        ),
        _ => next.run(request).await,
    }
}

/// Compares hashes in constant time, so that the duration tells nothing about the token.
fn token_matches(token: &str, headers: &HeaderMap) -> bool {
    let sent = headers.get(header::AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
    let Some((scheme, sent)) = sent.split_at_checked("Bearer ".len()) else { return false };
    let same = Sha256::digest(sent).as_slice().ct_eq(Sha256::digest(token).as_slice());
    scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(same)
}

fn is_local_host(request: &Request) -> bool {
    let host = request.headers().get(header::HOST).map(|host| host.to_str().unwrap_or("?"));
    host.or_else(|| request.uri().host()).is_none_or(is_local)
}

/// Whether a host, with or without port, is this machine.
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
    fn only_the_exact_token_is_accepted() {
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

//! The collector: receives spans by OTLP over HTTP.

use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, Response, StatusCode, Uri,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, USER_AGENT},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message as _;

use crate::ports::error::error_text;

/// The path of traces, which follows the address of a collector.
const PATH: &str = "/v1/traces";
/// How long a collector may take for one request.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest answer that is read.
const MAX_ANSWER: usize = 64 * 1024;
const USER: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// The collector at one address.
pub struct Collector {
    client: HttpClient,
    uri: Uri,
}

/// Certificates are read only if they are needed.
enum HttpClient {
    Plain(Client<HttpConnector, Full<Bytes>>),
    Tls(Client<HttpsConnector<HttpConnector>, Full<Bytes>>),
}

/// Why a collector cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidEndpoint {
    /// The address is not one.
    #[error("it is not an address of HTTP")]
    Address(#[source] hyper::http::Error),
    /// No certificate authority is known.
    #[error("the certificate authorities of this machine cannot be read")]
    Certificates(#[source] std::io::Error),
}

/// Why spans were not exported.
#[derive(Debug)]
pub(super) struct ExportError {
    pub(super) text: String,
    /// Whether another try may succeed.
    pub(super) is_temporary: bool,
}

impl ExportError {
    fn temporary(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_temporary: true }
    }
}

impl Collector {
    /// The collector at `http://host:port` or `https://host:port`, perhaps with a path.
    ///
    /// # Errors
    /// [`InvalidEndpoint`].
    pub fn new(endpoint: &str) -> Result<Self, InvalidEndpoint> {
        let uri: Uri = format!("{}{PATH}", endpoint.trim_end_matches('/'))
            .parse()
            .map_err(|error: hyper::http::uri::InvalidUri| InvalidEndpoint::Address(error.into()))?;
        let builder = Client::builder(TokioExecutor::new());
        let client = if uri.scheme_str() == Some("https") {
            let tls =
                HttpsConnectorBuilder::new().with_native_roots().map_err(InvalidEndpoint::Certificates)?;
            HttpClient::Tls(builder.build(tls.https_only().enable_http1().build()))
        } else {
            HttpClient::Plain(builder.build_http())
        };
        Ok(Self { client, uri })
    }

    /// Exports the spans of a request. Returns how many of them the collector rejected.
    pub(super) async fn export(&self, request: Bytes) -> Result<usize, ExportError> {
        match tokio::time::timeout(TIMEOUT, self.post(request)).await {
            Ok(exported) => exported,
            Err(_) => Err(ExportError::temporary(format!("no answer within {TIMEOUT:?}"))),
        }
    }

    async fn post(&self, body: Bytes) -> Result<usize, ExportError> {
        let request = Request::post(&self.uri)
            .header(CONTENT_TYPE, "application/x-protobuf")
            .header(USER_AGENT, USER)
            .body(Full::from(body))
            .map_err(|error| ExportError { text: error_text(&error), is_temporary: false })?;
        let response = match &self.client {
            HttpClient::Plain(client) => client.request(request).await,
            HttpClient::Tls(client) => client.request(request).await,
        };
        answer(response.map_err(|error| ExportError::temporary(error_text(&error)))?).await
    }
}

/// The number of rejected spans.
async fn answer(response: Response<Incoming>) -> Result<usize, ExportError> {
    let status = response.status();
    // The text of an answer may contain parts of the request.
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    if !status.is_success() {
        let text = format!("the collector answered {status}");
        return Err(ExportError { text, is_temporary: is_temporary(status) });
    }
    let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let answer = ExportTraceServiceResponse::decode(body).unwrap_or_default();
    let rejected = answer.partial_success.unwrap_or_default().rejected_spans;
    Ok(usize::try_from(rejected).unwrap_or_default())
}

/// As OTLP defines it.
fn is_temporary(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

//! What must hold for any request.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{
    body::{Body, to_bytes},
    http::{HeaderName, HeaderValue, Method, Request, Uri, header},
};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::{
    adapters::memory::MemoryStore,
    entrypoints::{
        api::Api,
        health::{Health, LastReport, Readiness, StallTimeouts},
        storage::Storage,
        watchdog::Watchdog,
    },
    ports::{
        admin::{DeclareResult, QueueDepth, Topology},
        error::{BrokerError, StoreError},
        installation::{DatabaseState, Installation, SchemaVersion},
        observer::NoObserver,
    },
    service::{
        availability::AvailabilityLog, backoff::RetryPolicy, message_bus::MessageBus, policy::FailurePolicy,
    },
    views::Views,
};

use super::common::{LIMITS, assert_printable};

/// A request in the parts that the server received.
#[derive(Clone)]
struct Parts {
    method: Method,
    uri: Uri,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Vec<u8>,
}

pub(super) fn check(data: &[u8]) {
    let Some(parts) = parse(data) else { return };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime starts");
    runtime.block_on(async {
        let (router, tasks) = api().await.router();
        let service = TowerToHyperService::new(router);
        let mut statuses = Vec::new();
        for _ in 0..2 {
            let response = service.call(parts.request()).await.expect("the router has no errors");
            let status = response.status();
            assert!(status.as_u16() != 500, "{status}");
            let body = to_bytes(response.into_body(), usize::MAX).await.expect("the body is complete");
            let text = std::str::from_utf8(&body).expect("an answer is UTF-8");
            check_body(text);
            statuses.push(status);
        }
        if statuses[0].is_success() && parts.method == Method::POST {
            assert_eq!(statuses[0], statuses[1], "the same request again has the same answer");
            assert!(parts.is_local(), "a request for another host was handled");
        }
        drop(tasks);
    });
}

/// Plain words, or JSON.
fn check_body(text: &str) {
    if ["", "OK", "not found"].contains(&text) {
        return;
    }
    let json: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    if let Some(message) = json["message"].as_str() {
        assert_printable(message);
    }
}

fn parse(data: &[u8]) -> Option<Parts> {
    let mut lines = data.splitn(40, |byte| *byte == b'\n');
    let mut first = lines.next()?.splitn(2, |byte| *byte == b' ');
    let (method, uri) = (first.next()?, first.next()?);
    let (mut headers, mut body) = (Vec::new(), Vec::new());
    while let Some(line) = lines.next() {
        if line.is_empty() {
            body = lines.next().unwrap_or_default().to_vec();
            break;
        }
        let at = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..at]).ok()?;
        headers.push((name, HeaderValue::from_bytes(line[at + 1..].trim_ascii()).ok()?));
    }
    Some(Parts { method: Method::from_bytes(method).ok()?, uri: Uri::try_from(uri).ok()?, headers, body })
}

impl Parts {
    fn request(&self) -> Request<Body> {
        let mut request = Request::new(Body::from(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        request.headers_mut().extend(self.headers.iter().cloned());
        request
    }

    /// Whether it names this machine, as far as it names one.
    fn is_local(&self) -> bool {
        let host = self.headers.iter().find(|(name, _)| *name == header::HOST);
        let host =
            host.map_or(self.uri.host().unwrap_or("localhost").as_bytes(), |(_, value)| value.as_bytes());
        let host = String::from_utf8_lossy(host).to_ascii_lowercase();
        ["localhost", "127.", "[", "::1"].iter().any(|local| host.contains(local))
    }
}

/// An API without a token, on an empty store in memory; its queries fail.
async fn api() -> Api {
    let pool = PgPool::connect_lazy("postgres://127.0.0.1:1/none").expect("it is a URL");
    pool.close().await;
    let policy = FailurePolicy {
        handler_timeout: Duration::from_secs(30),
        retry: RetryPolicy::default(),
        host: "fuzzing".into(),
    };
    let checked = CancellationToken::new();
    checked.cancel();
    let (watchdog, storage) = (Watchdog::default(), Storage::default());
    let database = Arc::new(AvailabilityLog::of("database"));
    let commands = Arc::new(MessageBus::new(Arc::new(MemoryStore::default()), policy, Arc::new(NoObserver)));
    let readiness = Readiness {
        checked: checked.clone(),
        installation: Arc::new(Ready),
        namespace: "fuzzing".into(),
        database: database.clone(),
        broker: Arc::new(AvailabilityLog::of("broker")),
        commands: commands.clone(),
        topology: Arc::new(Ready),
        watchdog: watchdog.clone(),
        storage,
        last: LastReport::default(),
    };
    let minute = Duration::from_mins(1);
    let stall_timeouts = StallTimeouts { partition: minute, relay: minute };
    Api {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        token: None,
        timeout: Duration::from_secs(5),
        keep_alive: Duration::from_secs(5),
        limits: LIMITS,
        body_memory: 1 << 20,
        tasks: 1,
        max_batch: 10,
        commands,
        views: Views::new(pool, "fuzzing".into(), Duration::from_secs(1)),
        checked,
        health: Health::new(watchdog.clone(), stall_timeouts, readiness),
        watchdog,
        database,
        observer: Arc::new(NoObserver),
    }
}

/// A schema and a topology that are always ready.
struct Ready;

#[async_trait]
impl Installation for Ready {
    async fn state(&self) -> Result<DatabaseState, StoreError> {
        Ok(DatabaseState {
            database: "none".into(),
            encoding: "UTF8".into(),
            read_only: false,
            schema: SchemaVersion { found: Some(1), expected: 1 },
            namespace: Some("fuzzing".into()),
        })
    }

    async fn claim(&self) -> Result<String, StoreError> {
        Ok("fuzzing".into())
    }
}

#[async_trait]
impl Topology for Ready {
    async fn declare(&self) -> Result<Vec<DeclareResult>, BrokerError> {
        Ok(Vec::new())
    }

    async fn queue_depths(&self) -> Result<Vec<QueueDepth>, BrokerError> {
        Ok(Vec::new())
    }
}

//! The API in the test's own process, over a store that the test can hold up.

use std::{sync::Arc, time::Duration};

use allocation::{
    adapters::memory::MemoryStore,
    entrypoints::{api::Api, watchdog::Watchdog},
    ports::{
        admin::{DeclareResult, QueueDepth, Schema, SchemaVersion, Topology},
        error::{BrokerError, StoreError},
        queue::QueueName,
        store::{Store, Tx},
    },
    service::{availability::AvailabilityLog, decode::Limits},
    views::Views,
};
use async_trait::async_trait;
use serde_json::json;
use sqlx::PgPool;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::harness::{Client, JSON, LIMITS, SOON, bus, wait_for};

use super::{add_batch, batch, line};

/// A store whose transactions begin only while it is open.
#[derive(Clone)]
struct Gated {
    inner: MemoryStore,
    open: watch::Sender<bool>,
}

#[async_trait]
impl Store for Gated {
    async fn begin(&self, queue: QueueName) -> Result<Box<dyn Tx>, StoreError> {
        let _ = self.open.subscribe().wait_for(|open| *open).await;
        self.inner.begin(queue).await
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.inner.probe().await
    }

    async fn unfinished_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<Vec<u32>, StoreError> {
        self.inner.unfinished_starts(queue, ids).await
    }

    async fn record_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<(), StoreError> {
        self.inner.record_starts(queue, ids).await
    }

    async fn revert_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<(), StoreError> {
        self.inner.revert_starts(queue, ids).await
    }
}

/// Servers that are as they should be.
struct Ready;

#[async_trait]
impl Schema for Ready {
    async fn version(&self) -> Result<SchemaVersion, StoreError> {
        Ok(SchemaVersion { found: Some(1), expected: 1 })
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

/// What differs from test to test.
struct Settings {
    limits: Limits,
    timeout: Duration,
    stuck_after: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let long = Duration::from_mins(10);
        Self { limits: LIMITS, timeout: long, stuck_after: long }
    }
}

/// A running API, the gate of its store, and a client.
struct Served {
    client: Client,
    open: watch::Sender<bool>,
    _running: AbortOnDropHandle<()>,
}

async fn serve(Settings { limits, timeout, stuck_after }: Settings) -> Served {
    let store = Gated { inner: MemoryStore::default(), open: watch::channel(true).0 };
    let open = store.open.clone();
    let nowhere = PgPool::connect_lazy("postgres://127.0.0.1:1/none").unwrap();
    let api = Api {
        listen: "127.0.0.1:0".parse().unwrap(),
        token: None,
        timeout,
        limits,
        tasks: 2,
        max_batch: 100,
        stall_timeout: stuck_after,
        commands: Arc::new(bus(Arc::new(store))),
        views: Views::new(nowhere, "test".into(), Duration::from_secs(1)),
        topology: Arc::new(Ready),
        schema: Arc::new(Ready),
        watchdog: Watchdog::default(),
        database: Arc::new(AvailabilityLog::of("database")),
    };
    let listener = api.bind().await.unwrap();
    let address = listener.as_ref().unwrap().local_addr().unwrap();
    let running = tokio::spawn(async move { api.run(listener, &CancellationToken::new()).await });
    let client = Client::of(address);
    client.wait_until_ready().await;
    Served { client, open, _running: AbortOnDropHandle::new(running) }
}

#[tokio::test]
async fn a_body_of_exactly_the_limit_is_taken_and_one_byte_more_is_not() {
    let body = batch("b-1", "LAMP", 10).to_string();
    let limits = Limits { body_bytes: body.len(), ..LIMITS };
    let served = serve(Settings { limits, ..Settings::default() }).await;
    let larger = format!("{body} ");
    served.client.request("POST", "/add_batch", &[JSON], larger.as_bytes()).await.has(413).message();
    served.client.request("POST", "/add_batch", &[JSON], body.as_bytes()).await.has(201);
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_answered_within_the_time_limit() {
    let timeout = Duration::from_millis(200);
    let served = serve(Settings { timeout, ..Settings::default() }).await;
    add_batch(&served.client, &batch("b-1", "LAMP", 10)).await;
    served.open.send_replace(false);
    let wanted = line("o-1", "LAMP", 2);
    let answer = tokio::time::timeout(SOON, served.client.post("/allocate", &wanted)).await;
    let answer = answer.expect("it is answered").has(503);
    assert!(answer.header("retry-after").is_some());
    assert!(answer.message().contains("Idempotency-Key"), "{}", answer.message());
    served.open.send_replace(true);
    served.client.post("/allocate", &wanted).await.has(202);
}

#[tokio::test]
async fn live_fails_while_a_lane_is_stuck() {
    let stuck_after = Duration::from_millis(50);
    let served = serve(Settings { stuck_after, ..Settings::default() }).await;
    add_batch(&served.client, &batch("b-1", "LAMP", 10)).await;
    served.client.get("/health/live").await.has(200);
    served.open.send_replace(false);
    let asked = tokio::spawn({
        let client = served.client.clone();
        async move { client.post("/allocate", &line("o-1", "LAMP", 2)).await.status }
    });
    let live = async || served.client.get("/health/live").await.status;
    wait_for("a lane is stuck", SOON, &503, live).await;
    let answer = served.client.get("/health/live").await.has(503).json();
    assert_eq!(answer, json!({ "live": false, "stuck": ["orders"] }));
    served.open.send_replace(true);
    assert_eq!(asked.await.unwrap(), 202);
    served.client.get("/health/live").await.has(200);
}

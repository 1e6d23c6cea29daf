//! The API in the process of the test, with a store that the test can block.

use std::{sync::Arc, time::Duration};

use allocation::{
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
        activity::Activity, availability::AvailabilityLog, batch_handler::BatchHandler, decode::Limits,
        message_bus::MessageBus,
    },
    views::Views,
};
use async_trait::async_trait;
use serde_json::json;
use sqlx::PgPool;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    harness::{Client, JSON, LIMITS, SOON, bus, wait_for},
    service::fakes::{Call, OmitsFirst, Reply, ScriptedStore},
};

use super::{add_batch, batch, line, post_with_key};

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
            namespace: self.claim().await.ok(),
        })
    }

    async fn claim(&self) -> Result<String, StoreError> {
        Ok("test".into())
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

/// Settings that differ between the tests.
struct Settings {
    limits: Limits,
    timeout: Duration,
    stall_timeout: Duration,
    handler: fn(MessageBus) -> Arc<dyn BatchHandler>,
}

impl Default for Settings {
    fn default() -> Self {
        let long = Duration::from_mins(10);
        Self { limits: LIMITS, timeout: long, stall_timeout: long, handler: |bus| Arc::new(bus) }
    }
}

/// A running API, its store, and a client.
struct Served {
    client: Client,
    store: ScriptedStore,
    /// What the relay of the process would report.
    relay: Activity,
    _running: AbortOnDropHandle<()>,
}

impl Served {
    /// Blocks new transactions.
    fn block_store(&self) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        self.store.set_reply(Call::Begin, Reply::Waits(gate.clone()));
        gate
    }

    /// Lets blocked and new transactions begin.
    fn unblock_store(&self, gate: &Semaphore) {
        self.store.set_reply(Call::Begin, Reply::Does);
        gate.add_permits(100);
    }
}

async fn serve(Settings { limits, timeout, stall_timeout, handler }: Settings) -> Served {
    let store = ScriptedStore::default();
    let checked = CancellationToken::new();
    checked.cancel();
    let unused = PgPool::connect_lazy("postgres://127.0.0.1:1/none").unwrap();
    let (watchdog, storage) = (Watchdog::default(), Storage::default());
    let database = Arc::new(AvailabilityLog::of("database"));
    let commands = handler(bus(Arc::new(store.clone())));
    let readiness = Readiness {
        checked: checked.clone(),
        installation: Arc::new(Ready),
        namespace: "test".into(),
        database: database.clone(),
        broker: Arc::new(AvailabilityLog::of("broker")),
        commands: commands.clone(),
        topology: Arc::new(Ready),
        watchdog: watchdog.clone(),
        storage,
        last: LastReport::default(),
    };
    let stall_timeouts = StallTimeouts { partition: stall_timeout, relay: stall_timeout };
    let relay = watchdog.relay();
    let api = Api {
        body_memory: usize::MAX,
        keep_alive: Duration::from_secs(75),
        listen: "127.0.0.1:0".parse().unwrap(),
        token: None,
        timeout,
        limits,
        tasks: 2,
        max_batch: 100,
        commands,
        views: Views::new(unused, "test".into(), Duration::from_secs(1)),
        checked,
        health: Health::new(watchdog.clone(), stall_timeouts, readiness),
        watchdog,
        database,
        observer: Arc::new(NoObserver),
    };
    let listener = api.bind().await.unwrap();
    let address = listener.as_ref().unwrap().local_addr().unwrap();
    let running = tokio::spawn(async move { api.run(listener, &CancellationToken::new()).await });
    let client = Client::of(address);
    client.wait_until_ready().await;
    Served { client, store, relay, _running: AbortOnDropHandle::new(running) }
}

#[tokio::test]
async fn a_body_of_exactly_the_limit_is_accepted_and_one_byte_more_is_rejected() {
    let body = batch("b-1", "LAMP", 10).to_string();
    let limits = Limits { body_bytes: body.len(), ..LIMITS };
    let served = serve(Settings { limits, ..Settings::default() }).await;
    let larger = format!("{body} ");
    served
        .client
        .request("POST", "/add_batch", &[JSON], larger.as_bytes())
        .await
        .expect_status(413)
        .message();
    served.client.request("POST", "/add_batch", &[JSON], body.as_bytes()).await.expect_status(201);
}

#[tokio::test]
async fn a_slow_command_is_answered_within_the_timeout() {
    let timeout = Duration::from_millis(200);
    let served = serve(Settings { timeout, ..Settings::default() }).await;
    add_batch(&served.client, &batch("b-1", "LAMP", 10)).await;
    let gate = served.block_store();
    let line = line("o-1", "LAMP", 2);
    let response = tokio::time::timeout(SOON, served.client.post("/allocate", &line)).await;
    let response = response.expect("the request is answered").expect_status(503);
    assert!(response.header("retry-after").is_some());
    assert!(response.message().contains("Idempotency-Key"), "{}", response.message());
    served.unblock_store(&gate);
    served.client.post("/allocate", &line).await.expect_status(202);
}

#[tokio::test]
async fn liveness_fails_while_a_partition_is_stalled() {
    let stall_timeout = Duration::from_millis(50);
    let served = serve(Settings { stall_timeout, ..Settings::default() }).await;
    add_batch(&served.client, &batch("b-1", "LAMP", 10)).await;
    served.client.get("/health/live").await.expect_status(200);
    let gate = served.block_store();
    let response = tokio::spawn({
        let client = served.client.clone();
        async move { client.post("/allocate", &line("o-1", "LAMP", 2)).await.status }
    });
    let live = async || served.client.get("/health/live").await.status;
    wait_for("a partition is stalled", SOON, &503, live).await;
    let health = served.client.get("/health/live").await.expect_status(503).json();
    assert_eq!(health, json!({ "live": false, "stuck": ["orders"] }));
    served.unblock_store(&gate);
    assert_eq!(response.await.unwrap(), 202);
    served.client.get("/health/live").await.expect_status(200);
}

#[tokio::test]
async fn liveness_fails_while_the_relay_is_stalled() {
    let served = serve(Settings { stall_timeout: Duration::from_millis(50), ..Settings::default() }).await;
    served.relay.begin();
    let live = async || served.client.get("/health/live").await.status;
    wait_for("the relay is stalled", SOON, &503, live).await;
    let health = served.client.get("/health/live").await.expect_status(503).json();
    assert_eq!(health, json!({ "live": false, "stuck": ["relay"] }));
    served.relay.end();
    served.client.get("/health/live").await.expect_status(200);
}

/// A defect of the store or of the handler. The client can repeat the request with its key.
#[tokio::test]
async fn a_command_without_an_outcome_is_never_answered_with_ok() {
    let served = serve(Settings::default()).await;
    served.store.set_reply(Call::CheckInbox, Reply::OneAnswerTooFew);
    let body = batch("b-1", "LAMP", 10);
    let error = post_with_key(&served.client, "k-1", "/add_batch", &body).await.expect_status(500).message();
    assert!(error.contains("may have been processed"), "{error}");
    assert_eq!(served.store.commits(), []);
    served.store.set_reply(Call::CheckInbox, Reply::Does);
    for _ in 0..2 {
        post_with_key(&served.client, "k-1", "/add_batch", &body).await.expect_status(201);
    }

    let served = serve(Settings { handler: |bus| Arc::new(OmitsFirst(bus)), ..Settings::default() }).await;
    post_with_key(&served.client, "k-1", "/add_batch", &body).await.expect_status(500);
    assert_eq!(served.store.commits(), []);
}

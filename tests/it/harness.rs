//! A world for every test: a database, a namespace on the broker, processes of the program, and all that was published.

mod broker;
mod http;
mod process;
mod proxy;
mod season;
mod smtp;

use std::{
    collections::BTreeMap,
    fmt::Debug,
    io::Write as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use allocation::{
    adapters::{
        memory::MemoryNotices,
        postgres::{Access, PgStore},
    },
    ports::{
        queue::{Message, QueueName},
        store::Store,
    },
    service::{
        decode::Limits,
        delays::RetryPolicy,
        incoming::Incoming,
        message_bus::{MessageBus, Policy},
    },
    views::Views,
};
use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{BasicGetOptions, ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::{FieldTable, ShortString},
};
use serde_json::Value;
use sqlx::{Connection as _, PgConnection, PgPool, postgres::PgPoolOptions};
use tempfile::TempDir;
use tokio::process::Command as Call;
use url::Url;
use uuid::Uuid;

pub(crate) use broker::{Event, Raw, Sender, assert_gapless, properties};
pub(crate) use http::{Client, JSON, Response};
pub(crate) use process::{Answer, Running};
pub(crate) use proxy::Proxy;
pub(crate) use season::{
    Command, Random, Season, allocate, allocated_by, change_batch_quantity, create_batch, deallocate,
};
pub(crate) use smtp::{Mail, MailServer};

use crate::consistency;

use broker::{Observer, distinct};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);
/// Whatever was sent is handled and published by then, even on a small machine that runs several tests at once.
pub(crate) const DRAINS_WITHIN: Duration = Duration::from_mins(1);
/// What the broker has confirmed reaches a subscriber soon.
const ARRIVES_WITHIN: Duration = Duration::from_secs(10);
/// Lines of each log that are shown when a test fails.
const TAIL: usize = 40;
/// What belongs to a namespace; the observer is ours.
const QUEUES: [&str; 7] =
    ["orders", "orders.dlq", "stock", "stock.dlq", "notifications", "notifications.dlq", "observer"];
const EXCHANGES: [&str; 3] = ["commands", "events", "dead-letters"];

/// Waits until a condition holds.
pub(crate) async fn wait_until(what: &str, within: Duration, holds: impl AsyncFnMut() -> bool) {
    wait_for(what, within, &true, holds).await;
}

/// Waits until something has the value it should have; says both if it never does.
pub(crate) async fn wait_for<T: PartialEq + Debug>(
    what: &str,
    within: Duration,
    expected: &T,
    mut look: impl AsyncFnMut() -> T,
) {
    let begin = Instant::now();
    loop {
        let found = look().await;
        if found == *expected {
            return;
        }
        assert!(begin.elapsed() < within, "{what}: after {within:?} {found:?}, not {expected:?}");
        tokio::time::sleep(POLL).await;
    }
}

/// The broker that everybody shares.
pub(crate) fn amqp_url() -> String {
    std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672/%2f".into())
}

/// A database on the server that everybody shares.
fn database_url(database: &str) -> String {
    let url = std::env::var("DATABASE_URL")
        .unwrap_or_else(|_| "postgres://postgres@127.0.0.1:5432/postgres".into());
    let mut url = Url::parse(&url).expect("DATABASE_URL is a URL");
    url.set_path(&format!("/{database}"));
    url.into()
}

/// Runs a statement that makes or ends a database.
async fn administer(statement: String) {
    let mut connection = PgConnection::connect(&database_url("postgres")).await.expect("PostgreSQL is there");
    sqlx::raw_sql(&statement).execute(&mut connection).await.expect("databases may be made");
}

#[expect(clippy::disallowed_methods, reason = "every world has a name that no other world ever had")]
pub(crate) fn unique() -> String {
    // The end of the id is its random part.
    Uuid::now_v7().simple().to_string().split_off(20)
}

/// A call of the program for this namespace and database.
fn program(namespace: &str, database_url: &str, arguments: &[&str]) -> Call {
    let mut command = Call::new(env!("CARGO_BIN_EXE_allocation"));
    command
        .args(arguments)
        .env("DATABASE_URL", database_url)
        .env("AMQP_URL", amqp_url())
        .env("ALLOCATION__NAMESPACE", namespace)
        .kill_on_drop(true);
    command
}

async fn call(command: &mut Call) -> Answer {
    Answer::of(command.output().await.expect("the program was built and starts"))
}

/// A bus over a store, in this process; nobody hears its notices.
pub(crate) fn bus(store: Arc<dyn Store>) -> MessageBus {
    bus_that_tells(store, MemoryNotices::default())
}

/// A bus over a store, in this process.
pub(crate) fn bus_that_tells(store: Arc<dyn Store>, notices: MemoryNotices) -> MessageBus {
    let policy = Policy {
        handler_timeout: Duration::from_secs(30),
        retry: RetryPolicy::default(),
        host: "test".into(),
    };
    MessageBus::new(store, Arc::new(notices), policy)
}

/// A command as the bus takes it.
pub(crate) fn command(message_id: &str, kind: &str, body: &Value) -> Incoming {
    let message = Message {
        kind: kind.into(),
        message_id: Some(message_id.into()),
        body: body.to_string().into_bytes(),
        ..Message::default()
    };
    Incoming::read(message, false, Limits { body: 262_144, headers: 65_536 })
}

/// The queue a command waits in.
pub(crate) fn queue_of(command: &Command) -> QueueName {
    if command.queue() == "orders" { QueueName::Orders } else { QueueName::Stock }
}

/// How far the work is.
#[derive(Debug, PartialEq, Eq)]
struct Progress {
    handled: i64,
    unpublished: i64,
    retrying: i64,
    ready: u32,
}

/// What a test has to itself.
pub(crate) struct World {
    /// The database, for questions.
    pub(crate) pool: PgPool,
    /// An upstream system.
    pub(crate) sender: Sender,
    pub(crate) namespace: String,
    name: String,
    database: String,
    observer: Observer,
    channel: Channel,
    connection: Connection,
    files: TempDir,
    started: AtomicUsize,
    expected_dead: AtomicI64,
    repeats_may_be_left: AtomicBool,
    closed: bool,
}

impl World {
    /// Makes a world; `name` is the test's.
    pub(crate) async fn new(name: &str) -> Self {
        let unique = unique();
        let (database, namespace) = (format!("it_{unique}"), format!("it.{unique}"));
        administer(format!("create database {database}")).await;
        let url = database_url(&database);
        for preparation in ["migrate", "topology"] {
            call(&mut program(&namespace, &url, &[preparation])).await.exits(0);
        }
        let connection = Connection::connect(&amqp_url(), ConnectionProperties::default())
            .await
            .expect("RabbitMQ is there");
        let pool = PgPoolOptions::new().max_connections(3).connect(&url).await;
        Self {
            pool: pool.expect("the database was made"),
            sender: Sender::open(&connection, &namespace).await,
            observer: Observer::open(&connection, &namespace).await,
            channel: connection.create_channel().await.expect("a channel opens"),
            name: name.to_owned(),
            files: TempDir::new().expect("there is room for files"),
            started: AtomicUsize::new(0),
            expected_dead: AtomicI64::new(0),
            repeats_may_be_left: AtomicBool::new(false),
            closed: false,
            connection,
            database,
            namespace,
        }
    }

    /// The database's URL.
    pub(crate) fn database_url(&self) -> String {
        database_url(&self.database)
    }

    /// The read side of the database.
    pub(crate) fn views(&self) -> Views {
        Views::new(self.pool.clone(), self.namespace.clone(), Duration::from_secs(10))
    }

    /// The real store over the database.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        let access = Access::new(&self.database_url(), 10, Duration::from_secs(10));
        let access = access.expect("the database's URL is one");
        Arc::new(PgStore::new(access.pool(), &access, Arc::default()))
    }

    /// Waits until so many different events have arrived; all of them, repeats included.
    pub(crate) async fn events_of(&self, distinct_events: usize) -> Vec<Event> {
        let arrived = async || distinct(&self.observer.events());
        wait_for("events arrive", DRAINS_WITHIN, &distinct_events, arrived).await;
        self.observer.events()
    }

    /// Leaves events without a subscriber from now on.
    pub(crate) async fn stop_observing(&self) {
        for queue in ["observer", "notifications"] {
            let deleted =
                self.channel.queue_delete(self.named(queue).into(), QueueDeleteOptions::default()).await;
            deleted.expect("the queue was there");
        }
    }

    /// Calls the command line.
    pub(crate) async fn cli(&self, arguments: &[&str]) -> Answer {
        call(&mut program(&self.namespace, &self.database_url(), arguments)).await
    }

    /// Calls the command line with further variables in its environment.
    pub(crate) async fn cli_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Answer {
        let mut command = program(&self.namespace, &self.database_url(), arguments);
        command.envs(environment.iter().copied());
        call(&mut command).await
    }

    /// Starts a process, with further variables in its environment.
    pub(crate) fn start(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Running {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let log = self.files.path().join(format!("process-{number}.log"));
        let mut command = program(&self.namespace, &self.database_url(), arguments);
        command.envs(environment.iter().copied());
        Running::start(&mut command, log)
    }

    /// Starts a process that handles commands and publishes events, without the roles that need a port.
    pub(crate) fn worker(&self) -> Running {
        self.worker_with(&[])
    }

    /// The same with settings of its own.
    pub(crate) fn worker_with(&self, environment: &[(&str, &str)]) -> Running {
        self.start(&["run", "--only", "worker,relay"], environment)
    }

    /// A file for the command line to read.
    pub(crate) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.files.path().join(name);
        std::fs::write(&path, content).expect("there is room for a file");
        path
    }

    /// How many dead letters the test leaves behind.
    pub(crate) fn expect_dead(&self, count: i64) {
        self.expected_dead.store(count, Ordering::Relaxed);
    }

    /// The test breaks connections or processes: messages that were handled may come again, even after the last worker
    /// stopped.
    pub(crate) fn expect_repeats(&self) {
        self.repeats_may_be_left.store(true, Ordering::Relaxed);
    }

    /// A channel for questions to the broker and for its administration.
    pub(crate) fn channel(&self) -> &Channel {
        &self.channel
    }

    /// A name under the namespace.
    pub(crate) fn named(&self, name: &str) -> String {
        format!("{}.{name}", self.namespace)
    }

    /// A number from the database.
    pub(crate) async fn count(&self, question: &'static str) -> i64 {
        sqlx::query_scalar(question).fetch_one(&self.pool).await.expect("the question can be answered")
    }

    /// How many commands were handled.
    pub(crate) async fn handled(&self) -> i64 {
        self.count("select count(*) from inbox where queue in ('orders', 'stock')").await
    }

    /// Waits until so many commands were handled.
    pub(crate) async fn wait_handled(&self, count: usize) {
        let count = number(count);
        wait_for("commands are handled", DRAINS_WITHIN, &count, async || self.handled().await).await;
    }

    /// Sends commands and waits until so many more than before were handled: work is under way.
    pub(crate) async fn get_under_way(&self, commands: &[Command], more: i64) {
        let enough = self.handled().await + more;
        self.sender.send_all(commands).await;
        wait_until("the work goes on", DRAINS_WITHIN, async || self.handled().await >= enough).await;
    }

    /// Waits until so many commands were handled in all and nothing else is on its way.
    pub(crate) async fn wait_drained(&self, handled: usize) {
        let drained = Progress { handled: number(handled), unpublished: 0, retrying: 0, ready: 0 };
        wait_for("the work is done", DRAINS_WITHIN, &drained, async || self.progress().await).await;
    }

    async fn progress(&self) -> Progress {
        Progress {
            handled: self.handled().await,
            unpublished: self.count("select count(*) from outbox").await,
            retrying: self.count("select count(*) from failed_messages where status = 'retrying'").await,
            ready: self.ready("orders").await + self.ready("stock").await,
        }
    }

    /// How many messages wait in a queue.
    pub(crate) async fn ready(&self, queue: &str) -> u32 {
        let passive = QueueDeclareOptions::durable().passive();
        let name = self.named(queue);
        let state = self.channel.queue_declare(name.into(), passive, FieldTable::default()).await;
        state.expect("the queue exists").message_count()
    }

    /// Waits until everything is done and every event has arrived; all of it must fit together. Returns the events
    /// in the order of their arrival.
    pub(crate) async fn settled(&self, handled: usize) -> Vec<Event> {
        self.wait_drained(handled).await;
        let recorded = self.count("select coalesce(sum(event_sequence), 0)::bigint from products").await;
        let arrived = async || number(distinct(&self.observer.events()));
        wait_for("events arrive", ARRIVES_WITHIN, &recorded, arrived).await;
        let events = self.observer.events();
        assert_gapless(&events);
        assert_eq!(
            last_sequences(&events),
            self.recorded_sequences().await,
            "an event is missing or a ghost"
        );
        self.assert_consistent().await;
        events
    }

    async fn recorded_sequences(&self) -> BTreeMap<String, i64> {
        let rows: Vec<(String, i64)> =
            sqlx::query_as("select sku, event_sequence from products where event_sequence > 0")
                .fetch_all(&self.pool)
                .await
                .expect("the products can be read");
        rows.into_iter().collect()
    }

    /// Whatever happened, sums are sums, no batch is overdrawn, no line waits beside stock it fits in, and the read
    /// model says what is true.
    pub(crate) async fn assert_consistent(&self) {
        for (rule, offenders) in consistency::RULES {
            let found: Vec<String> =
                sqlx::query_scalar(offenders).fetch_all(&self.pool).await.expect("the rule is SQL");
            assert!(found.is_empty(), "{rule}, but not {found:?}");
        }
    }

    /// The lines that sit in a batch: by order and SKU, the batch.
    pub(crate) async fn allocated_lines(&self) -> BTreeMap<(String, String), String> {
        let lines: Vec<(String, String, String)> =
            sqlx::query_as("select orderid, sku, batchref from order_lines where batchref is not null")
                .fetch_all(&self.pool)
                .await
                .expect("the lines can be read");
        lines.into_iter().map(|(orderid, sku, batchref)| ((orderid, sku), batchref)).collect()
    }

    /// Stops processes in good order, then closes.
    pub(crate) async fn close_after(self, processes: impl IntoIterator<Item = Running>) {
        for process in processes {
            let ended = process.terminate().await;
            assert!(ended.success(), "a process that was to stop ended with {ended}");
        }
        self.close().await;
    }

    /// Nothing may be left that the test did not name; then the world ends.
    pub(crate) async fn close(mut self) {
        for queue in ["orders", "stock"] {
            self.assert_nothing_left_to_do(queue).await;
        }
        for queue in ["orders.dlq", "stock.dlq", "notifications.dlq"] {
            assert_eq!(self.ready(queue).await, 0, "{queue} holds something");
        }
        assert_eq!(self.count("select count(*) from outbox").await, 0, "events were not published");
        let dead = self.count("select count(*) from failed_messages where status = 'dead'").await;
        assert_eq!(dead, self.expected_dead.load(Ordering::Relaxed), "dead letters");
        self.remove().await;
        self.closed = true;
    }

    /// The queue is empty; after a fault it may hold what was handled and could not be acknowledged.
    async fn assert_nothing_left_to_do(&self, queue: &str) {
        if !self.repeats_may_be_left.load(Ordering::Relaxed) {
            assert_eq!(self.ready(queue).await, 0, "{queue} holds something");
        }
        let name: ShortString = self.named(queue).into();
        let take = BasicGetOptions { no_ack: true };
        while let Some(left) = self.channel.basic_get(name.clone(), take).await.expect("the queue exists") {
            let message_id = left.properties.message_id().as_ref().map(ToString::to_string);
            let known: bool = sqlx::query_scalar(
                "select exists (select from inbox where queue = $1 and message_id = $2)
                     or exists (select from failed_messages where queue = $1 and message_id = $2)",
            )
            .bind(queue)
            .bind(message_id.as_deref())
            .fetch_one(&self.pool)
            .await
            .expect("the inbox can be read");
            assert!(known, "{message_id:?} is left in {queue} and was never handled");
        }
    }

    async fn remove(&self) {
        for queue in QUEUES {
            let deleted = self.channel.queue_delete(self.named(queue).into(), QueueDeleteOptions::default());
            deleted.await.expect("a queue can be deleted");
        }
        for exchange in EXCHANGES {
            let deleted =
                self.channel.exchange_delete(self.named(exchange).into(), ExchangeDeleteOptions::default());
            deleted.await.expect("an exchange can be deleted");
        }
        let _ = self.connection.close(200, "done".into()).await;
        self.pool.close().await;
        administer(format!("drop database {} with (force)", self.database)).await;
    }

    /// The ends of all logs.
    fn tails(&self) -> String {
        let mut tails = String::new();
        for number in 0..self.started.load(Ordering::Relaxed) {
            let log = self.files.path().join(format!("process-{number}.log"));
            let log = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
            let lines: Vec<_> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
            tails.extend(["\n--- process ", &number.to_string(), "\n", &tail]);
        }
        tails
    }
}

impl Drop for World {
    /// A test that failed did not close its world; what the processes said may tell why.
    fn drop(&mut self) {
        if !self.closed {
            let _ = writeln!(
                std::io::stderr().lock(),
                "{} failed in database {}, namespace {}{}",
                self.name,
                self.database,
                self.namespace,
                self.tails()
            );
        }
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).expect("a count is small")
}

fn last_sequences(events: &[Event]) -> BTreeMap<String, i64> {
    let mut last = BTreeMap::new();
    for event in events {
        let last = last.entry(event.aggregate_id()).or_default();
        *last = event.sequence().max(*last);
    }
    last
}

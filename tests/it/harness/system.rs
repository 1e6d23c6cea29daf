//! A system under test for every test: a database, a namespace on the broker, processes, and all that was published.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use allocation::{adapters::postgres::PgStore, pg::PgConfig, ports::store::Store, views::Views};
use lapin::{Channel, Connection, options::QueueDeleteOptions};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tempfile::TempDir;

use super::{
    broker::{Event, Observer, Sender, distinct},
    namespace::{TestNamespace, connect_to_broker, database_url},
    process::{CliOutput, Running, call, program},
    wait::{DRAINS_WITHIN, wait_for},
};

/// Lines of each log that are shown when a test fails.
const TAIL: usize = 40;

/// What a test has to itself.
pub(crate) struct TestSystem {
    /// The database, for questions.
    pub(crate) pool: PgPool,
    /// An upstream system.
    pub(crate) sender: Sender,
    pub(crate) namespace: String,
    name: String,
    place: TestNamespace,
    pub(super) observer: Observer,
    pub(super) channel: Channel,
    connection: Connection,
    files: TempDir,
    started: AtomicUsize,
    expected_dead: AtomicI64,
    pub(super) repeats_may_be_left: AtomicBool,
    closed: bool,
}

impl TestSystem {
    /// Makes a system; `name` is the test's.
    pub(crate) async fn new(name: &str) -> Self {
        let place = TestNamespace::take().await;
        let (namespace, url) = (place.namespace(), database_url(&place.database()));
        for preparation in ["migrate", "topology"] {
            call(&mut program(&namespace, &url, &[preparation])).await.exits(0);
        }
        let connection = connect_to_broker().await;
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
            namespace,
            place,
        }
    }

    /// The database's URL.
    pub(crate) fn database_url(&self) -> String {
        database_url(&self.place.database())
    }

    /// The read side of the database.
    pub(crate) fn views(&self) -> Views {
        Views::new(self.pool.clone(), self.namespace.clone(), Duration::from_secs(10))
    }

    /// The real store over the database.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        let access = PgConfig::new(&self.database_url(), 10, Duration::from_secs(10));
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
    pub(crate) async fn cli(&self, arguments: &[&str]) -> CliOutput {
        call(&mut program(&self.namespace, &self.database_url(), arguments)).await
    }

    /// Calls the command line with further variables in its environment.
    pub(crate) async fn cli_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> CliOutput {
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

    /// Another channel, for what may close it.
    pub(crate) async fn new_channel(&self) -> Channel {
        self.connection.create_channel().await.expect("a channel opens")
    }

    /// A name under the namespace.
    pub(crate) fn named(&self, name: &str) -> String {
        format!("{}.{name}", self.namespace)
    }

    /// A number from the database.
    pub(crate) async fn count(&self, question: &'static str) -> i64 {
        sqlx::query_scalar(question).fetch_one(&self.pool).await.expect("the question can be answered")
    }

    /// The allocated lines: the batch, by order and SKU.
    pub(crate) async fn allocated_lines(&self) -> BTreeMap<(String, String), String> {
        let lines: Vec<(String, String, String)> =
            sqlx::query_as("select orderid, sku, batchref from order_lines where batchref is not null")
                .fetch_all(&self.pool)
                .await
                .expect("the lines can be read");
        lines.into_iter().map(|(orderid, sku, batchref)| ((orderid, sku), batchref)).collect()
    }

    /// Stops processes, then closes.
    pub(crate) async fn close_after(self, processes: impl IntoIterator<Item = Running>) {
        for process in processes {
            let ended = process.terminate().await;
            assert!(ended.success(), "a process that was to stop ended with {ended}");
        }
        self.close().await;
    }

    /// Asserts that no message, event or dead letter is left that the test did not expect, and removes everything.
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

    async fn remove(&mut self) {
        let _ = self.connection.close(200, "done".into()).await;
        self.pool.close().await;
        self.place.remove().await;
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

impl Drop for TestSystem {
    /// A test that failed did not close its system; what the processes said may tell why.
    fn drop(&mut self) {
        if !self.closed {
            let _ = writeln!(
                std::io::stderr().lock(),
                "{} failed in database {}, namespace {}{}",
                self.name,
                self.place.database(),
                self.namespace,
                self.tails()
            );
        }
    }
}

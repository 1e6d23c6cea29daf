//! A test system: a database, a namespace on the broker, processes of the program, and all published events.

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
use tokio::process::Command;
use url::Url;

use super::{
    broker::{Event, Observer, Sender, distinct},
    namespace::{TestNamespace, amqp_url, connect_to_broker, database_url},
    process::{CliOutput, Running, call, program},
    roles,
    wait::{DRAINS_WITHIN, wait_for},
};

/// The number of log lines per process that a failed test prints.
const TAIL: usize = 40;
/// Groups and statuses whose kept number of failed messages is not the counted one.
const MISCOUNTED: &str = "
    with kept as (
        select error_group, queue, status, n from failed_message_totals where error_group <> '' or status <> 'dead'
        union all
        select error_group, queue, status, n from failed_message_changes
    ), counted as (
        select case status when 'dead' then error_group else '' end as error_group, queue, status, -1 as n
        from failed_messages where status <> 'resolved'
    ), differences as (
        select from (select * from kept union all select * from counted) as both_of_them
        group by error_group, queue, status having sum(n) <> 0
    ), dead as (
        select n from failed_message_totals where error_group = '' and status = 'dead'
        union all
        select n from failed_message_changes where status = 'dead'
        union all
        select -1 from failed_messages where status = 'dead'
    ) select (select count(*) from differences) + (select coalesce(abs(sum(n)), 0) from dead)::bigint";
const UNPUBLISHED: &str = "select count(*) from outbox";

/// A system that no other test uses.
pub(crate) struct TestSystem {
    /// For queries of the test.
    pub(crate) pool: PgPool,
    /// Publishes commands.
    pub(crate) sender: Sender,
    pub(crate) namespace: String,
    name: String,
    test_namespace: TestNamespace,
    pub(super) observer: Observer,
    pub(crate) channel: Channel,
    connection: Connection,
    files: TempDir,
    started: AtomicUsize,
    expected_dead: AtomicI64,
    pub(super) redeliveries_may_remain: AtomicBool,
    closed: bool,
}

impl TestSystem {
    /// Creates a system; `name` is the name of the test.
    pub(crate) async fn new(name: &str) -> Self {
        let test_namespace = TestNamespace::create().await;
        let (namespace, url) = (test_namespace.namespace(), database_url(&test_namespace.database()));
        call(&mut program(&namespace, &url, &["migrate"])).await.exits(0);
        let pool = PgPoolOptions::new().max_connections(3).connect(&url).await;
        let pool = pool.expect("the database was created");
        roles::prepare(&pool, &url).await;
        call(&mut program(&namespace, &url, &["topology"])).await.exits(0);
        let connection = connect_to_broker().await;
        Self {
            pool,
            sender: Sender::open(&connection, &namespace).await,
            observer: Observer::open(&connection, &namespace).await,
            channel: connection.create_channel().await.expect("a channel opens"),
            name: name.to_owned(),
            files: TempDir::new().expect("a temporary folder can be created"),
            started: AtomicUsize::new(0),
            expected_dead: AtomicI64::new(0),
            redeliveries_may_remain: AtomicBool::new(false),
            closed: false,
            connection,
            namespace,
            test_namespace,
        }
    }

    /// The URL of the database.
    pub(crate) fn database_url(&self) -> String {
        database_url(&self.test_namespace.database())
    }

    /// The read side of the database.
    pub(crate) fn views(&self) -> Views {
        Views::new(self.pool.clone(), self.namespace.clone(), Duration::from_secs(10))
    }

    /// The store of the database.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        let config = PgConfig::new(&self.database_url(), 10, Duration::from_secs(10));
        let config = config.expect("the URL is valid");
        Arc::new(PgStore::new(config.pool(), &config, Arc::default()))
    }

    /// Waits for this number of distinct events, and returns all of them, including duplicates.
    pub(crate) async fn events_of(&self, distinct_events: usize) -> Vec<Event> {
        let arrived = async || distinct(&self.observer.events());
        wait_for("events arrive", DRAINS_WITHIN, &distinct_events, arrived).await;
        self.observer.events()
    }

    /// Removes all queues of events: later events are unroutable.
    pub(crate) async fn stop_observing(&self) {
        for queue in ["observer", "notifications"] {
            let deleted =
                self.channel.queue_delete(self.named(queue).into(), QueueDeleteOptions::default()).await;
            deleted.expect("the queue exists");
        }
    }

    /// Calls the command line.
    pub(crate) async fn cli(&self, arguments: &[&str]) -> CliOutput {
        call(&mut program(&self.namespace, &self.database_url(), arguments)).await
    }

    /// Calls the command line on another database.
    pub(crate) async fn cli_on(&self, database_url: &str, arguments: &[&str]) -> CliOutput {
        self.cli_with(arguments, &[("DATABASE_URL", database_url)]).await
    }

    /// Runs statements in the database.
    pub(crate) async fn execute(&self, statements: &str) {
        let done = sqlx::raw_sql(statements).execute(&self.pool).await;
        done.unwrap_or_else(|error| panic!("{error}: {statements}"));
    }

    /// The URL of the database for a role that may log in and do what the program does. `options` are those of `create role`.
    pub(crate) async fn url_of_role(&self, options: &str) -> String {
        self.url_with_grants(
            options,
            "grant all on all tables in schema public to ROLE; grant all on all sequences in schema public to ROLE",
        )
        .await
    }

    /// The URL of the database for a role that may log in. In `grants`, ROLE stands for its name.
    pub(crate) async fn url_with_grants(&self, options: &str, grants: &str) -> String {
        let role = self.test_namespace.database();
        let grants = grants.replace("ROLE", &role);
        self.execute(&format!("create role {role} login {options}; {grants}")).await;
        let mut url = Url::parse(&self.database_url()).expect("it is a URL");
        url.set_username(&role).expect("the URL has a host");
        url.into()
    }

    /// Ends the sessions of the program.
    pub(crate) async fn end_sessions(&self) {
        self.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and application_name ~ '^allocation( relay.*)?$'",
        )
        .await;
    }

    /// Calls the command line with further variables in its environment.
    pub(crate) async fn cli_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> CliOutput {
        let mut command = program(&self.namespace, &self.database_url(), arguments);
        command.envs(environment.iter().copied());
        call(&mut command).await
    }

    /// The variables of the environment that name the servers and the namespace.
    pub(crate) fn environment(&self) -> [(&'static str, String); 3] {
        [
            ("DATABASE_URL", self.database_url()),
            ("AMQP_URL", amqp_url()),
            ("ALLOCATION__NAMESPACE", self.namespace.clone()),
        ]
    }

    /// A call of the command line that the test runs itself.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        program(&self.namespace, &self.database_url(), arguments)
    }

    /// Inserts dead letters of the queue `orders`; the last one failed last.
    pub(crate) async fn insert_dead_letters(&self, count: i64) {
        let insert = sqlx::query(
            "insert into failed_messages (queue, message_id, fingerprint, type, body, properties, original, status,
                 reason, error, error_pattern, error_group, attempts, first_failed_at, last_failed_at)
             select 'orders', 'm-' || n, sha256(n::text::bytea), 'allocate',
                 convert_to(format('{\"orderid\": \"o-%s\", \"sku\": \"LAMP\", \"qty\": 1}', n), 'UTF8'),
                 '{\"properties\": {\"type\": \"allocate\"}, \"headers\": null}', '{}', 'dead', 'rejected',
                 'Invalid sku LAMP', 'Invalid sku', 'group-1', 1, now(), now() + n * interval '1 microsecond'
             from generate_series(1, $1) as n",
        );
        insert.bind(count).execute(&self.pool).await.expect("the rows are valid");
        let attempts = "insert into failed_attempts (failed_message_id, generation, attempt, host, duration_ms, error, chain)
                        select id, 1, 1, 'a host', 1, error, '{}' from failed_messages";
        sqlx::query(attempts).execute(&self.pool).await.expect("the rows are valid");
        self.expect_dead(count);
    }

    /// Starts a process with further variables in its environment.
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

    /// The same with further variables in its environment.
    pub(crate) fn worker_with(&self, environment: &[(&str, &str)]) -> Running {
        self.start(&["run", "--only", "worker,relay"], environment)
    }

    /// Writes a file that the command line can read.
    pub(crate) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.files.path().join(name);
        std::fs::write(&path, content).expect("the file can be written");
        path
    }

    /// Sets the number of dead letters at the end of the test.
    pub(crate) fn expect_dead(&self, count: i64) {
        self.expected_dead.store(count, Ordering::Relaxed);
    }

    /// Allows handled messages in the queues at the end: a test that breaks connections or processes causes redeliveries.
    pub(crate) fn expect_redeliveries(&self) {
        self.redeliveries_may_remain.store(true, Ordering::Relaxed);
    }

    /// A channel for the administration of the broker.
    pub(crate) fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Another channel, for operations that may close it.
    pub(crate) async fn new_channel(&self) -> Channel {
        self.connection.create_channel().await.expect("a channel opens")
    }

    /// A name with the prefix of the namespace.
    pub(crate) fn named(&self, name: &str) -> String {
        format!("{}.{name}", self.namespace)
    }

    /// The only number of a query.
    pub(crate) async fn count(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&self.pool).await.expect("the query succeeds")
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

    /// Waits until the events are published, stops processes, then closes.
    pub(crate) async fn close_after(self, processes: impl IntoIterator<Item = Running>) {
        self.wait_published().await;
        for process in processes {
            let ended = process.terminate().await;
            assert!(ended.success(), "a process ended with {ended} after SIGTERM");
        }
        self.close().await;
    }

    /// Waits until the relay has published every event.
    pub(crate) async fn wait_published(&self) {
        let unpublished = async || self.count(UNPUBLISHED).await;
        wait_for("events are published", DRAINS_WITHIN, &0, unpublished).await;
    }

    /// Asserts that no unexpected message, event or dead letter is left, and removes everything.
    pub(crate) async fn close(mut self) {
        for queue in ["orders", "stock"] {
            self.assert_queue_finished(queue).await;
        }
        for queue in ["orders.dlq", "stock.dlq", "notifications.dlq"] {
            assert_eq!(self.ready(queue).await, 0, "{queue} is not empty");
        }
        assert_eq!(self.count(UNPUBLISHED).await, 0, "events were not published");
        let dead = self.count("select count(*) from failed_messages where status = 'dead'").await;
        assert_eq!(dead, self.expected_dead.load(Ordering::Relaxed), "dead letters");
        assert_eq!(self.count(MISCOUNTED).await, 0, "the kept numbers of failed messages are wrong");
        self.remove().await;
        self.closed = true;
    }

    async fn remove(&mut self) {
        let _ = self.connection.close(200, "done".into()).await;
        self.pool.close().await;
        self.test_namespace.remove().await;
    }

    /// The last lines of all logs.
    fn log_tails(&self) -> String {
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
    /// A failed test does not close its system. The logs may show the cause.
    fn drop(&mut self) {
        if !self.closed {
            let _ = writeln!(
                std::io::stderr().lock(),
                "{} failed in database {}, namespace {}{}",
                self.name,
                self.test_namespace.database(),
                self.namespace,
                self.log_tails()
            );
        }
    }
}

//! The test system of one scenario: a database, a namespace on the broker, a command source, an observer, processes.

use std::{
    cell::{Cell, RefCell},
    fmt::Debug,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use allocation::faults::CrashPoint;
use anyhow::ensure;
use sqlx::{PgPool, postgres::PgPoolOptions};
use tempfile::TempDir;

use crate::{
    broker_client::BrokerClient,
    cluster::{Cluster, Recovery},
    command::Command,
    command_source::CommandSource,
    kill_point::KillPoint,
    observer::Observer,
    output::print_line,
    program::{CliOutput, Program},
    wait::{POLL, TimedOut, wait_until, wait_until_equal},
};

/// A crashed database accepts connections again within this time.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(30);
/// After a first timeout the scenario has failed, and later waits are shortened to this time.
const TIMEOUT_AFTER_FAILURE: Duration = Duration::from_secs(5);
/// Log lines per process that are shown when a scenario is aborted.
const TAIL_LINES: usize = 12;
/// All roles, for a single process.
pub(crate) const ALL_ROLES: &str = "worker,relay,archive";

/// A message that must end as a dead letter.
#[derive(Clone, Debug)]
pub(crate) struct ExpectedDeadLetter {
    /// `None` if the message has no id.
    pub(crate) message_id: Option<String>,
    pub(crate) reason: &'static str,
    /// The body that must be stored.
    pub(crate) body: Vec<u8>,
}

/// The test system of one scenario.
pub(crate) struct TestSystem<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) name: &'static str,
    pub(crate) namespace: String,
    /// Connections to the database, for queries.
    pub(crate) pool: PgPool,
    pub(crate) command_source: CommandSource,
    pub(crate) observer: Observer,
    /// For queries to the broker.
    pub(crate) broker_client: BrokerClient,
    /// Evidence that the fault interrupted work in flight.
    pub(crate) evidence: RefCell<Vec<String>>,
    /// Violations of what this scenario expects.
    pub(crate) violations: RefCell<Vec<String>>,
    pub(crate) expected_dead: RefCell<Vec<ExpectedDeadLetter>>,
    /// A queue rejects events, so subscribers must drop an event that arrives before its predecessor.
    pub(crate) events_rejected: Cell<bool>,
    pub(crate) database: String,
    /// The time when everything had started.
    pub(crate) started_at: Instant,
    pub(crate) checked: Cell<bool>,
    /// A wait has timed out.
    timed_out: Cell<bool>,
    directory: TempDir,
    process_count: Cell<u32>,
}

impl<'a> TestSystem<'a> {
    pub(crate) async fn new(cluster: &'a Cluster, name: &'static str) -> anyhow::Result<Self> {
        let number = cluster.next_system_number();
        let (database, namespace) = (format!("chaos_{number}"), format!("chaos.{number}"));
        cluster.create_database(&database).await?;
        let url = cluster.postgres.url("postgres", &database);
        CliOutput::run(&mut cluster.program(&namespace, &url, &["topology"])).await?.ensure_exit_code(0)?;
        let pool = PgPoolOptions::new().max_connections(3).connect(&url).await?;
        let observer = Observer::subscribe(&cluster.rabbit.url(), &namespace).await?;
        Ok(Self {
            cluster,
            name,
            pool,
            command_source: CommandSource::new(&cluster.rabbit.url(), &namespace),
            observer,
            broker_client: BrokerClient::new(&cluster.rabbit.url()),
            namespace,
            database,
            started_at: Instant::now(),
            evidence: RefCell::default(),
            violations: RefCell::default(),
            expected_dead: RefCell::default(),
            events_rejected: Cell::new(false),
            checked: Cell::new(false),
            timed_out: Cell::new(false),
            directory: TempDir::with_prefix("chaos-system-")?,
            process_count: Cell::new(0),
        })
    }

    /// The URL of the database, as its owner.
    pub(crate) fn database_url(&self) -> String {
        self.cluster.postgres.url("postgres", &self.database)
    }

    /// A name with the namespace as prefix.
    pub(crate) fn qualified(&self, name: &str) -> String {
        format!("{}.{name}", self.namespace)
    }

    /// Calls the command line.
    pub(crate) async fn cli(&self, arguments: &[&str]) -> anyhow::Result<CliOutput> {
        CliOutput::run(&mut self.cluster.program(&self.namespace, &self.database_url(), arguments)).await
    }

    /// Starts a process with additional environment variables.
    pub(crate) fn start(&self, roles: &str, environment: &[(&str, &str)]) -> anyhow::Result<Program> {
        let mut command =
            self.cluster.program(&self.namespace, &self.database_url(), &["run", "--only", roles]);
        command.envs(environment.iter().copied());
        Program::start(&mut command, self.next_log_path())
    }

    /// Starts a process with all roles and default settings.
    pub(crate) fn start_all_roles(&self) -> anyhow::Result<Program> {
        self.start(ALL_ROLES, &[])
    }

    /// Starts a process that is killed at this point.
    pub(crate) async fn run_until_killed(
        &self,
        at: KillPoint,
        roles: &str,
        environment: &[(&str, &str)],
    ) -> anyhow::Result<()> {
        at.kill(self, |more| self.start(roles, &[environment, more].concat())).await
    }

    /// Waits until a process has crashed at a crash point.
    pub(crate) async fn expect_crash(&self, process: &mut Program, at: CrashPoint) -> anyhow::Result<()> {
        let crashed_at = process.wait_for_crash().await?;
        ensure!(crashed_at == at, "crashed at {}, not at {}", crashed_at.name(), at.name());
        self.record_crash(KillPoint::Port(at));
        Ok(())
    }

    /// Counts a crash at this point.
    pub(crate) fn record_crash(&self, at: KillPoint) {
        self.cluster.record_crash(at.name());
        self.add_evidence(format!("crashed at {}", at.name()));
    }

    /// The log file of the next process.
    pub(crate) fn next_log_path(&self) -> PathBuf {
        self.process_count.set(self.process_count.get() + 1);
        self.directory.path().join(format!("process-{}.log", self.process_count.get()))
    }

    /// Writes a file for the command line.
    pub(crate) fn write_file(&self, name: &str, content: &str) -> anyhow::Result<PathBuf> {
        let path = self.directory.path().join(name);
        fs::write(&path, content)?;
        Ok(path)
    }

    /// Sends commands and waits until all are confirmed.
    pub(crate) async fn send(&self, commands: &[Command]) -> anyhow::Result<()> {
        self.command_source.send(commands).await
    }

    /// Records evidence that the fault interrupted work in flight.
    pub(crate) fn add_evidence(&self, evidence: String) {
        self.evidence.borrow_mut().push(evidence);
    }

    /// Records a violation if the values differ. The scenario continues.
    pub(crate) fn expect<T: PartialEq + Debug>(&self, description: &str, found: &T, expected: &T) {
        if found != expected {
            self.violations.borrow_mut().push(format!("{description}: {found:?}, expected {expected:?}"));
        }
    }

    /// Expects a message to be dead-lettered.
    pub(crate) fn expect_dead_letter(&self, message_id: Option<&str>, reason: &'static str, body: &[u8]) {
        let message_id = message_id.map(ToOwned::to_owned);
        self.expected_dead.borrow_mut().push(ExpectedDeadLetter { message_id, reason, body: body.to_vec() });
    }

    /// Reads a number from the database. Repeated while the database recovers.
    pub(crate) async fn count(&self, query: &'static str) -> anyhow::Result<i64> {
        let begin = Instant::now();
        loop {
            let answer: Result<i64, _> = sqlx::query_scalar(query).fetch_one(&self.pool).await;
            match answer {
                Ok(number) => return Ok(number),
                Err(error) if begin.elapsed() > RECOVERY_TIMEOUT => return Err(error.into()),
                Err(_) => tokio::time::sleep(POLL * 4).await,
            }
        }
    }

    /// Runs statements in the database, as its owner.
    pub(crate) async fn execute(&self, statements: &str) -> anyhow::Result<()> {
        self.cluster.postgres.execute(&self.database, statements).await
    }

    /// The number of handled commands, from the inbox.
    pub(crate) async fn handled(&self) -> anyhow::Result<i64> {
        self.count("select count(*) from inbox where queue in ('orders', 'stock')").await
    }

    /// The number of failed attempts.
    pub(crate) async fn failed_attempts(&self) -> anyhow::Result<i64> {
        self.count("select count(*) from failed_attempts").await
    }

    /// The number of starts of redelivered messages.
    pub(crate) async fn redeliveries(&self) -> anyhow::Result<i64> {
        self.count("select count(*) from journal where table_name = 'message_starts' and op <> 'DELETE'")
            .await
    }

    /// Waits until this many commands are handled. A timeout fails the scenario, which continues: the checker reports
    /// the state of the commands.
    pub(crate) async fn wait_handled(&self, count: usize) -> anyhow::Result<()> {
        let (count, handled) = (i64::try_from(count)?, async || self.handled().await);
        self.note_timeout(wait_until_equal("commands are handled", self.timeout(), &count, handled).await)
            .map(drop)
    }

    /// Waits until both command queues have a consumer.
    pub(crate) async fn wait_until_consuming(&self) -> anyhow::Result<()> {
        for queue in ["orders", "stock"].map(|queue| self.qualified(queue)) {
            let consuming = async || anyhow::Ok(self.broker_client.consumer_count(&queue).await? > 0);
            wait_until("the queue has a consumer", self.cluster.timeout(), consuming).await?;
        }
        Ok(())
    }

    /// Waits until more commands are handled than before. A timeout fails the scenario, which continues.
    pub(crate) async fn wait_for_progress(&self, previous: i64) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        Ok(self.next_progress(previous).await?.unwrap_or_else(|| begin.elapsed()))
    }

    /// The time until more commands are handled; `None` after a timeout, which is recorded.
    async fn next_progress(&self, previous: i64) -> anyhow::Result<Option<Duration>> {
        let more = async || anyhow::Ok(self.handled().await? > previous);
        self.note_timeout(wait_until("more commands are handled", self.timeout(), more).await)
    }

    /// The time limit of a wait.
    pub(crate) fn timeout(&self) -> Duration {
        if self.timed_out.get() { TIMEOUT_AFTER_FAILURE } else { self.cluster.timeout() }
    }

    /// The duration of a wait; `None` after a timeout, which is recorded as a violation.
    pub(crate) fn note_timeout(&self, result: anyhow::Result<Duration>) -> anyhow::Result<Option<Duration>> {
        match result {
            Ok(elapsed) => Ok(Some(elapsed)),
            Err(error) if error.is::<TimedOut>() => {
                self.timed_out.set(true);
                self.violations.borrow_mut().push(format!("{error:#}"));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The number of ready commands in both queues.
    pub(crate) async fn ready_commands(&self) -> anyhow::Result<u32> {
        self.ready_in_queues(["orders", "stock"]).await
    }

    /// The number of ready messages in the dead-letter queues.
    pub(crate) async fn ready_dead_letters(&self) -> anyhow::Result<u32> {
        self.ready_in_queues(["orders.dlq", "stock.dlq"]).await
    }

    async fn ready_in_queues(&self, queues: [&str; 2]) -> anyhow::Result<u32> {
        let [one, other] = queues.map(|queue| self.qualified(queue));
        let (one, other) = tokio::try_join!(
            self.broker_client.ready_messages(&one),
            self.broker_client.ready_messages(&other)
        )?;
        Ok(one + other)
    }

    /// The number of delivered commands that are neither handled nor failed.
    pub(crate) async fn in_flight(&self) -> anyhow::Result<i64> {
        let attempted = i64::try_from(self.command_source.attempt_count())?;
        let mut ready = 0;
        for queue in ["orders", "stock"] {
            ready += self.broker_client.poll_ready_messages(&self.qualified(queue)).await?;
        }
        // The queues are read first: a command that is handled in between reduces the number.
        let failed = self.count("select count(*) from failed_messages").await?;
        Ok((attempted - i64::from(ready) - failed - self.handled().await?).max(0))
    }

    /// After a server became available again: measures the time until a new command is handled.
    pub(crate) async fn measure_recovery(&self, kind: Recovery, probe: &Command) -> anyhow::Result<()> {
        let begin = Instant::now();
        let before = self.handled().await?;
        self.send(std::slice::from_ref(probe)).await?;
        if self.next_progress(before).await?.is_some() {
            self.cluster.record_recovery(kind, begin.elapsed());
        }
        Ok(())
    }
}

impl Drop for TestSystem<'_> {
    /// An aborted scenario was not checked. Its violations are kept, and the logs are printed.
    fn drop(&mut self) {
        if self.checked.get() {
            return;
        }
        self.cluster.record_unreported(self.violations.take());
        for number in 1..=self.process_count.get() {
            let log =
                fs::read(self.directory.path().join(format!("process-{number}.log"))).unwrap_or_default();
            let log = String::from_utf8_lossy(&log).into_owned();
            let lines: Vec<_> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
            print_line(&format!("--- process {number} of {}\n{tail}", self.name));
        }
    }
}

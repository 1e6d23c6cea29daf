//! What a scenario has to itself: a database, a namespace on the broker, an upstream system, an observer, processes.

use std::{
    cell::{Cell, RefCell},
    fmt::Debug,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use allocation::crash_points::CrashPoint;
use anyhow::ensure;
use sqlx::{PgPool, postgres::PgPoolOptions};
use tempfile::TempDir;

use crate::{
    command::Command,
    lab::{Lab, Recovery},
    link::Link,
    observer::Observer,
    program::{Answer, Program},
    report::say,
    upstream::Upstream,
    wait::{POLL, TooLate, until, until_is},
};

/// A database that was crashed answers again within this time.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);
/// Where something was late once, nothing else is waited for much longer than this: the scenario has failed.
const PATIENCE_LEFT: Duration = Duration::from_secs(5);
/// Lines of each log that are shown when a scenario broke off.
const TAIL: usize = 12;
/// Roles of a process that does everything.
pub(crate) const ALL_ROLES: &str = "worker,relay,archive";

/// A command that is to be dead in the end.
#[derive(Clone, Debug)]
pub(crate) struct ExpectedDeath {
    /// None where the message had no id.
    pub(crate) message_id: Option<String>,
    pub(crate) reason: &'static str,
    /// The bytes that were sent, which the ledger must have.
    pub(crate) body: Vec<u8>,
}

/// See above.
pub(crate) struct World<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) name: &'static str,
    pub(crate) namespace: String,
    /// The database, for questions.
    pub(crate) pool: PgPool,
    pub(crate) upstream: Upstream,
    pub(crate) observer: Observer,
    /// For questions to the broker.
    pub(crate) link: Link,
    /// Proof that the fault met work in flight.
    pub(crate) hits: RefCell<Vec<String>>,
    /// What was not as this scenario says it must be.
    pub(crate) complaints: RefCell<Vec<String>>,
    pub(crate) expected_dead: RefCell<Vec<ExpectedDeath>>,
    /// Subscribers must drop what came before its predecessor, because a queue refused that one.
    pub(crate) refusals: Cell<bool>,
    pub(crate) database: String,
    /// All of this is there since then.
    pub(crate) begun: Instant,
    pub(crate) judged: Cell<bool>,
    /// Something did not come in time.
    late: Cell<bool>,
    files: TempDir,
    started: Cell<u32>,
}

impl<'a> World<'a> {
    pub(crate) async fn new(lab: &'a Lab, name: &'static str) -> anyhow::Result<Self> {
        let number = lab.next_world();
        let (database, namespace) = (format!("chaos_{number}"), format!("chaos.{number}"));
        lab.create_database(&database).await?;
        let url = lab.postgres.url("postgres", &database);
        Answer::to(&mut lab.program(&namespace, &url, &["topology"])).await?.exits(0)?;
        let pool = PgPoolOptions::new().max_connections(3).connect(&url).await?;
        let observer = Observer::open(&lab.rabbit.url(), &namespace).await?;
        Ok(Self {
            lab,
            name,
            pool,
            upstream: Upstream::new(&lab.rabbit.url(), &namespace),
            observer,
            link: Link::to(&lab.rabbit.url()),
            namespace,
            database,
            begun: Instant::now(),
            hits: RefCell::default(),
            complaints: RefCell::default(),
            expected_dead: RefCell::default(),
            refusals: Cell::new(false),
            judged: Cell::new(false),
            late: Cell::new(false),
            files: TempDir::with_prefix("chaos-world-")?,
            started: Cell::new(0),
        })
    }

    /// The database's URL, as the owner.
    pub(crate) fn database_url(&self) -> String {
        self.lab.postgres.url("postgres", &self.database)
    }

    /// A name under the namespace.
    pub(crate) fn named(&self, name: &str) -> String {
        format!("{}.{name}", self.namespace)
    }

    /// Calls the command line.
    pub(crate) async fn cli(&self, arguments: &[&str]) -> anyhow::Result<Answer> {
        Answer::to(&mut self.lab.program(&self.namespace, &self.database_url(), arguments)).await
    }

    /// Starts a process, with further variables in its environment.
    pub(crate) fn start(&self, roles: &str, environment: &[(&str, &str)]) -> anyhow::Result<Program> {
        let mut command = self.lab.program(&self.namespace, &self.database_url(), &["run", "--only", roles]);
        command.envs(environment.iter().copied());
        Program::start(&mut command, self.next_log())
    }

    /// Starts a process in which everything is as it should be.
    pub(crate) fn healthy(&self) -> anyhow::Result<Program> {
        self.start(ALL_ROLES, &[])
    }

    /// Starts a process that ends at a crash point, and waits for that.
    pub(crate) async fn dies(
        &self,
        at: CrashPoint,
        roles: &str,
        environment: &[(&str, &str)],
    ) -> anyhow::Result<()> {
        let mut victim = self.start(roles, &[environment, &[("CRASH_AT", at.name())]].concat())?;
        self.died(&mut victim, at).await
    }

    /// Waits until a process has died of a crash point.
    pub(crate) async fn died(&self, victim: &mut Program, at: CrashPoint) -> anyhow::Result<()> {
        let died_at = victim.dies().await?;
        ensure!(died_at == at, "it died at {}, not at {}", died_at.name(), at.name());
        self.lab.crashed(at);
        self.hit(format!("died at {}", at.name()));
        Ok(())
    }

    /// Where the next process is to write its log.
    pub(crate) fn next_log(&self) -> PathBuf {
        self.started.set(self.started.get() + 1);
        self.files.path().join(format!("process-{}.log", self.started.get()))
    }

    /// A file for the command line to read.
    pub(crate) fn file(&self, name: &str, content: &str) -> anyhow::Result<PathBuf> {
        let path = self.files.path().join(name);
        fs::write(&path, content)?;
        Ok(path)
    }

    /// Sends commands and waits until the broker has all of them.
    pub(crate) async fn send(&self, commands: &[Command]) -> anyhow::Result<()> {
        self.upstream.send(commands).await
    }

    /// The fault met work in flight; this is the proof.
    pub(crate) fn hit(&self, proof: String) {
        self.hits.borrow_mut().push(proof);
    }

    /// Something must be so; if it is not, the scenario has failed, and goes on all the same.
    pub(crate) fn expect<T: PartialEq + Debug>(&self, what: &str, found: &T, expected: &T) {
        if found != expected {
            self.complaints.borrow_mut().push(format!("{what}: {found:?}, not {expected:?}"));
        }
    }

    /// A message is to be dead in the end.
    pub(crate) fn expect_dead(&self, message_id: Option<&str>, reason: &'static str, body: &[u8]) {
        let message_id = message_id.map(ToOwned::to_owned);
        self.expected_dead.borrow_mut().push(ExpectedDeath { message_id, reason, body: body.to_vec() });
    }

    /// A number from the database; one that is recovering is asked again.
    pub(crate) async fn count(&self, question: &'static str) -> anyhow::Result<i64> {
        let begin = Instant::now();
        loop {
            let answer: Result<i64, _> = sqlx::query_scalar(question).fetch_one(&self.pool).await;
            match answer {
                Ok(number) => return Ok(number),
                Err(error) if begin.elapsed() > ANSWERS_WITHIN => return Err(error.into()),
                Err(_) => tokio::time::sleep(POLL * 4).await,
            }
        }
    }

    /// Runs statements in the database, as its owner.
    pub(crate) async fn execute(&self, statements: &str) -> anyhow::Result<()> {
        self.lab.postgres.administer(&self.database, statements).await
    }

    /// How many commands the inbox says were handled.
    pub(crate) async fn handled(&self) -> anyhow::Result<i64> {
        self.count("select count(*) from inbox where queue in ('orders', 'stock')").await
    }

    /// How many attempts have failed.
    pub(crate) async fn failed_attempts(&self) -> anyhow::Result<i64> {
        self.count("select count(*) from failed_attempts").await
    }

    /// How often messages were begun that somebody had been handed before.
    pub(crate) async fn redeliveries(&self) -> anyhow::Result<i64> {
        self.count("select count(*) from journal where about = 'message_starts' and op <> 'DELETE'").await
    }

    /// Waits until so many commands were handled. If they never are, the scenario has failed, and goes on all the same:
    /// the checker says in the end what became of them.
    pub(crate) async fn wait_handled(&self, count: usize) -> anyhow::Result<()> {
        let (count, handled) = (i64::try_from(count)?, async || self.handled().await);
        self.in_time(until_is("commands are handled", self.patience(), &count, handled).await).map(drop)
    }

    /// Waits until work is under way: more is handled than before. If it never is, the scenario goes on all the same.
    pub(crate) async fn wait_for_more(&self, than: i64) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        Ok(self.more(than).await?.unwrap_or_else(|| begin.elapsed()))
    }

    /// How soon more is handled than before; nothing if it is not, which is noted.
    async fn more(&self, than: i64) -> anyhow::Result<Option<Duration>> {
        let more = async || anyhow::Ok(self.handled().await? > than);
        self.in_time(until("the work goes on", self.patience(), more).await)
    }

    /// How long the scenario waits for what should come by itself.
    pub(crate) fn patience(&self) -> Duration {
        if self.late.get() { PATIENCE_LEFT } else { self.lab.patience() }
    }

    /// How long something took; nothing if it did not come in time. That is noted: it is wrong, whatever the reason.
    pub(crate) fn in_time(&self, waited: anyhow::Result<Duration>) -> anyhow::Result<Option<Duration>> {
        match waited {
            Ok(took) => Ok(Some(took)),
            Err(error) if error.is::<TooLate>() => {
                self.late.set(true);
                self.complaints.borrow_mut().push(format!("{error:#}"));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// How many messages of the work wait in their queues.
    pub(crate) async fn ready(&self) -> anyhow::Result<u32> {
        self.ready_in(["orders", "stock"]).await
    }

    /// How many messages wait that the broker has put aside.
    pub(crate) async fn ready_to_be_buried(&self) -> anyhow::Result<u32> {
        self.ready_in(["orders.dlq", "stock.dlq"]).await
    }

    async fn ready_in(&self, queues: [&str; 2]) -> anyhow::Result<u32> {
        let [one, other] = queues.map(|queue| self.named(queue));
        let (one, other) = tokio::try_join!(self.link.ready(&one), self.link.ready(&other))?;
        Ok(one + other)
    }

    /// How many commands the broker has handed out that are neither handled nor failed; a proof if there are any.
    pub(crate) async fn in_flight(&self) -> anyhow::Result<i64> {
        let attempted = i64::try_from(self.upstream.attempts())?;
        let mut ready = 0;
        for queue in ["orders", "stock"] {
            ready += self.link.glance(&self.named(queue)).await?;
        }
        // The queues first: what is handled in between counts twice, and the proof is not better than the truth.
        let known = self.count("select count(*) from failed_messages").await?;
        Ok((attempted - i64::from(ready) - known - self.handled().await?).max(0))
    }

    /// A server that was away accepts again: measures how soon a new command is handled.
    pub(crate) async fn measure(&self, kind: Recovery, probe: &Command) -> anyhow::Result<()> {
        let begin = Instant::now();
        let before = self.handled().await?;
        self.send(std::slice::from_ref(probe)).await?;
        if self.more(before).await?.is_some() {
            self.lab.recovered(kind, begin.elapsed());
        }
        Ok(())
    }
}

impl Drop for World<'_> {
    /// A scenario that broke off was not judged. What it found wrong stays wrong; what the processes said may tell why.
    fn drop(&mut self) {
        if self.judged.get() {
            return;
        }
        self.lab.note_unjudged(self.complaints.take());
        for number in 1..=self.started.get() {
            let log = fs::read(self.files.path().join(format!("process-{number}.log"))).unwrap_or_default();
            let log = String::from_utf8_lossy(&log).into_owned();
            let lines: Vec<_> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
            say(&format!("--- process {number} of {}\n{tail}", self.name));
        }
    }
}

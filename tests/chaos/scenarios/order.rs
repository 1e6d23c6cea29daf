//! Commands about one line are handled in the order in which they were sent, however often their only worker restarts
//! or returns messages to the queue.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    check_report::CheckReport,
    checker,
    cluster::Cluster,
    command::{Command, allocate, deallocate},
    output::print_line,
    program::Program,
    proxy::Proxy,
    random::Random,
    switches,
    test_system::{ALL_ROLES, TestSystem},
    wait::wait_until,
};

/// The seed of the plan.
const SEED: u64 = 47;
/// Pairs of an allocation and its deallocation.
const PAIRS: usize = 1500;
/// Products with enough stock.
const SKUS: [&str; 4] = ["LAMP", "DESK", "SOFA", "CHAIR"];
/// Orderly restarts during the work.
const RESTARTS: usize = 20;
/// The duration of each full disk. In the longest one messages are returned so often that as many deaths would be
/// treated as a crash loop.
const DISK_FULL: [Duration; 4] = [
    Duration::from_millis(1500),
    Duration::from_secs(2),
    Duration::from_millis(2500),
    Duration::from_secs(10),
];
/// How long the database is unreachable, once.
const CUT_DURATION: Duration = Duration::from_secs(2);
/// The delay of a unit of work, at least half of this (see `switches`).
const WORK_DELAY: Duration = Duration::from_millis(100);
/// The latest time of an interruption after the progress it waits for.
const MAX_DELAY: Duration = Duration::from_millis(150);
/// Time limit for messages to be returned to the queue.
const RETURN_TIMEOUT: Duration = Duration::from_secs(15);
/// Many small units of work, a prefetch far above their size, and a short `requeue_after`.
const WORKER: [(&str, &str); 3] = [
    ("ALLOCATION__WORKER__MAX_BATCH", "30"),
    ("ALLOCATION__WORKER__PREFETCH", "400"),
    ("ALLOCATION__WORKER__REQUEUE_AFTER", "1s"),
];

/// An interruption of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interruption {
    /// SIGTERM, and a new process.
    Restart,
    /// Units of work fail for this time.
    DiskFull(Duration),
    /// The database is unreachable for this time.
    CutDatabase(Duration),
}

/// The only worker, and its proxies.
struct WorkerProcess {
    program: Program,
    database: Proxy,
    broker: Proxy,
}

impl WorkerProcess {
    async fn start(system: &TestSystem<'_>) -> anyhow::Result<Self> {
        let (database, broker) =
            (Proxy::start(&system.database_url()).await?, Proxy::start(&system.cluster.rabbit.url()).await?);
        let program = start_process(system, &database, &broker)?;
        Ok(Self { program, database, broker })
    }

    async fn apply(&mut self, system: &TestSystem<'_>, interruption: Interruption) -> anyhow::Result<()> {
        match interruption {
            Interruption::Restart => self.restart(system).await,
            Interruption::DiskFull(duration) => {
                switches::set_disk_full(system, true).await?;
                let returned = self.wait_for_return(system, duration).await;
                switches::set_disk_full(system, false).await?;
                returned
            }
            Interruption::CutDatabase(duration) => {
                self.database.refuse_connections(true);
                self.database.cut();
                let returned = self.wait_for_return(system, duration).await;
                self.database.refuse_connections(false);
                returned
            }
        }
    }

    async fn restart(&mut self, system: &TestSystem<'_>) -> anyhow::Result<()> {
        if system.in_flight().await? > 0 {
            system.add_evidence("stopped with messages in flight".into());
        }
        self.program.signal(Signal::TERM)?;
        let status = self.program.wait_for_exit().await?;
        system.expect("a stopped process ended successfully", &status.success(), &true);
        self.program = start_process(system, &self.database, &self.broker)?;
        Ok(())
    }

    /// Waits until an outage is over and messages were returned in it: the worker has closed its subscription.
    async fn wait_for_return(&self, system: &TestSystem<'_>, duration: Duration) -> anyhow::Result<()> {
        let (subscriptions, queue) = (self.broker.accepted_connections(), system.qualified("orders"));
        let unsubscribed = async || {
            anyhow::Ok(
                self.broker.accepted_connections() > subscriptions
                    || system.broker_client.consumer_count(&queue).await? == 0,
            )
        };
        let pause = tokio::time::sleep(duration); // the duration of the outage; not a wait for a condition
        let (result, ()) = tokio::join!(
            wait_until("messages are returned to the queue", RETURN_TIMEOUT, unsubscribed),
            pause
        );
        if system.note_timeout(result)?.is_some() {
            system.add_evidence("messages returned in an outage".into());
        }
        Ok(())
    }
}

fn start_process(system: &TestSystem<'_>, database: &Proxy, broker: &Proxy) -> anyhow::Result<Program> {
    let urls = [("DATABASE_URL", database.url()), ("AMQP_URL", broker.url())];
    system.start(ALL_ROLES, &[&urls[..], &WORKER].concat())
}

/// Restarts and outages in a random order.
fn plan(random: &mut Random) -> Vec<Interruption> {
    let mut plan = vec![Interruption::Restart; RESTARTS];
    plan.extend(DISK_FULL.map(Interruption::DiskFull));
    plan.push(Interruption::CutDatabase(CUT_DURATION));
    random.shuffle(&mut plan);
    plan
}

/// The line of each order is allocated and deallocated by two consecutive commands.
fn pairs() -> Vec<Command> {
    let pair = |number: usize| {
        let (orderid, sku) = (format!("o{number}"), SKUS[number % SKUS.len()]);
        [allocate(&orderid, sku, 1), deallocate(&orderid, sku)]
    };
    (0..PAIRS).flat_map(pair).collect()
}

/// Allocates and deallocates orders with a worker that is interrupted all the time. No line may be left. There is one
/// process at a time, so messages are handled in queue order.
pub(super) async fn graceful_restarts_preserve_order(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "graceful_restarts_preserve_order").await?;
    let mut random = Random::seeded(SEED);
    let plan = plan(&mut random);
    print_line(&format!("graceful_restarts_preserve_order: seed {SEED}, plan: {plan:?}"));
    switches::install(&system).await?;
    switches::set_work_delay(&system, WORK_DELAY).await?;
    let commands = pairs();
    system.send(&commands).await?;
    let mut worker = WorkerProcess::start(&system).await?;
    let step = i64::try_from(commands.len() / (plan.len() + 1))?;
    for (number, interruption) in (0..).zip(plan) {
        let reached = system.handled().await?.max(step * number);
        system.wait_for_progress(reached).await?;
        tokio::time::sleep(random.duration_below(MAX_DELAY)).await; // part of the plan
        worker.apply(&system, interruption).await?;
    }
    switches::set_work_delay(&system, Duration::ZERO).await?;
    let WorkerProcess { program, database: _database, broker: _broker } = worker;
    system.drain_and_stop(vec![program]).await?;
    let report = check(&system, &commands).await?;
    system.close(report).await
}

async fn check(system: &TestSystem<'_>, commands: &[Command]) -> anyhow::Result<CheckReport> {
    for (description, query) in [
        ("lines that are still allocated", "select count(*) from order_lines"),
        ("failed attempts", "select count(*) from failed_attempts"),
        (
            "dead letters because of a crash loop",
            "select count(*) from failed_messages where reason = 'crash_loop'",
        ),
    ] {
        system.expect(description, &system.count(query).await?, &0);
    }
    let recorded: Vec<String> = sqlx::query_scalar(
        "select message_id from inbox union select coalesce(message_id, '') from failed_messages",
    )
    .fetch_all(&system.pool)
    .await?;
    let recorded: HashSet<_> = recorded.iter().map(String::as_str).collect();
    let mut report = checker::check_state(system).await?;
    let events = system.observer.events();
    let mut effects: HashMap<(&str, &str), HashSet<&str>> = HashMap::new();
    for event in &events {
        let effect = (event.causation_id.as_str(), event.kind.as_str());
        effects.entry(effect).or_default().insert(event.id.as_str());
    }
    for command in commands {
        let id = command.message_id.as_str();
        let effect = if command.kind == "allocate" { "allocated" } else { "deallocated" };
        match effects.get(&(id, effect)).map_or(0, HashSet::len) {
            0 if recorded.contains(id) => report.out_of_order.push(format!("{id} had no effect")),
            0 => report.lost.push(id.to_owned()),
            1 => {}
            more => report.repeated.push(format!("{id} ×{more}")),
        }
    }
    report.elapsed = system.started_at.elapsed();
    Ok(report)
}

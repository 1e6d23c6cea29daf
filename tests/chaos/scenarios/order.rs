//! Commands about one line are handled in the order in which they were sent, however often the one worker that handles
//! them is restarted or hands its messages back.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    checker,
    command::{Command, allocate, deallocate},
    lab::Lab,
    program::Program,
    proxy::Proxy,
    random::Random,
    report::say,
    switches,
    verdict::Verdict,
    wait::until,
    world::{ALL_ROLES, World},
};

/// The plan is made of this.
const SEED: u64 = 47;
/// Orders that are placed and cancelled at once.
const PAIRS: usize = 1500;
/// They have all the stock they ask for.
const SKUS: [&str; 4] = ["LAMP", "DESK", "SOFA", "CHAIR"];
/// Orderly restarts in the middle of work.
const RESTARTS: usize = 20;
/// How long the disk is full, each time. In the longest outage messages are handed back so often that a worker that had
/// died as often would be suspected of dying of them.
const DISK_FULL: [Duration; 4] = [
    Duration::from_millis(1500),
    Duration::from_secs(2),
    Duration::from_millis(2500),
    Duration::from_secs(10),
];
/// How long the database is cut off, once.
const CUT_OFF: Duration = Duration::from_secs(2);
/// A unit of work takes half of this at least, see `switches`.
const WORK_TAKES: Duration = Duration::from_millis(100);
/// An interruption comes less than this after the progress that it waits for.
const LATEST: Duration = Duration::from_millis(150);
/// Messages are handed back within this time after `worker.requeue_after`, or not at all.
const HANDED_BACK_WITHIN: Duration = Duration::from_secs(15);
/// Many small units of work, far more messages held than one of them takes, and little patience in an outage.
const WORKER: [(&str, &str); 3] = [
    ("ALLOCATION__WORKER__MAX_BATCH", "30"),
    ("ALLOCATION__WORKER__PREFETCH", "400"),
    ("ALLOCATION__WORKER__REQUEUE_AFTER", "1s"),
];

/// What comes in the middle of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interruption {
    /// SIGTERM, and another process.
    Restart,
    /// Units of work are refused for so long.
    DiskFull(Duration),
    /// The database cannot be reached for so long.
    CutOff(Duration),
}

/// The only worker, and its way to the servers.
struct Worker {
    program: Program,
    database: Proxy,
    broker: Proxy,
}

impl Worker {
    async fn start(world: &World<'_>) -> anyhow::Result<Self> {
        let (database, broker) =
            (Proxy::to(&world.database_url()).await?, Proxy::to(&world.lab.rabbit.url()).await?);
        let program = run(world, &database, &broker)?;
        Ok(Self { program, database, broker })
    }

    async fn meets(&mut self, world: &World<'_>, interruption: Interruption) -> anyhow::Result<()> {
        match interruption {
            Interruption::Restart => self.restart(world).await,
            Interruption::DiskFull(lasts) => {
                switches::disk_full(world, true).await?;
                let handed_back = self.hands_back(world, lasts).await;
                switches::disk_full(world, false).await?;
                handed_back
            }
            Interruption::CutOff(lasts) => {
                self.database.refuse(true);
                self.database.cut();
                let handed_back = self.hands_back(world, lasts).await;
                self.database.refuse(false);
                handed_back
            }
        }
    }

    async fn restart(&mut self, world: &World<'_>) -> anyhow::Result<()> {
        if world.in_flight().await? > 0 {
            world.hit("stopped with messages in flight".into());
        }
        self.program.signal(Signal::TERM)?;
        let ended = self.program.ends().await?;
        world.expect("a process that was to stop ended well", &ended.success(), &true);
        self.program = run(world, &self.database, &self.broker)?;
        Ok(())
    }

    /// Waits until an outage is over and messages were handed back in it: the subscription was given up then.
    async fn hands_back(&self, world: &World<'_>, lasts: Duration) -> anyhow::Result<()> {
        let (subscriptions, queue) = (self.broker.accepted(), world.named("orders"));
        let given_up = async || {
            anyhow::Ok(self.broker.accepted() > subscriptions || world.link.consumers(&queue).await? == 0)
        };
        let pause = tokio::time::sleep(lasts); // the outage takes so long; nothing is waited for
        let (waited, ()) =
            tokio::join!(until("messages are handed back", HANDED_BACK_WITHIN, given_up), pause);
        if world.in_time(waited)?.is_some() {
            world.hit("handed back in an outage".into());
        }
        Ok(())
    }
}

fn run(world: &World<'_>, database: &Proxy, broker: &Proxy) -> anyhow::Result<Program> {
    let urls = [("DATABASE_URL", database.url()), ("AMQP_URL", broker.url())];
    world.start(ALL_ROLES, &[&urls[..], &WORKER].concat())
}

/// Restarts and outages in a random order.
fn plan(random: &mut Random) -> Vec<Interruption> {
    let mut plan = vec![Interruption::Restart; RESTARTS];
    plan.extend(DISK_FULL.map(Interruption::DiskFull));
    plan.push(Interruption::CutOff(CUT_OFF));
    random.shuffle(&mut plan);
    plan
}

/// Each order's line is asked for and taken back by two commands, one behind the other.
fn pairs() -> Vec<Command> {
    let pair = |number: usize| {
        let (orderid, sku) = (format!("o{number}"), SKUS[number % SKUS.len()]);
        [allocate(&orderid, sku, 1), deallocate(&orderid, sku)]
    };
    (0..PAIRS).flat_map(pair).collect()
}

/// Orders that are cancelled at once, and a worker that is restarted and kept from its work all the time: no order is
/// left in the end. One process at a time, so the order of the queue is the order of the work.
pub(super) async fn orderly_restarts_keep_the_order(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "orderly_restarts_keep_the_order").await?;
    let mut random = Random::seeded(SEED);
    let plan = plan(&mut random);
    say(&format!("orderly_restarts_keep_the_order: seed {SEED}, plan: {plan:?}"));
    switches::install(&world).await?;
    switches::work_takes(&world, WORK_TAKES).await?;
    let commands = pairs();
    world.send(&commands).await?;
    let mut worker = Worker::start(&world).await?;
    let share = i64::try_from(commands.len() / (plan.len() + 1))?;
    for (number, interruption) in (0..).zip(plan) {
        let reached = world.handled().await?.max(share * number);
        world.wait_for_more(reached).await?;
        tokio::time::sleep(random.moment(LATEST)).await; // part of the plan
        worker.meets(&world, interruption).await?;
    }
    switches::work_takes(&world, Duration::ZERO).await?;
    let Worker { program, database: _database, broker: _broker } = worker;
    world.settle(vec![program]).await?;
    let verdict = judge(&world, &commands).await?;
    world.close(verdict).await
}

async fn judge(world: &World<'_>, commands: &[Command]) -> anyhow::Result<Verdict> {
    for (what, question) in [
        ("lines that are allocated still", "select count(*) from order_lines"),
        ("failed attempts", "select count(*) from failed_attempts"),
        (
            "dead for a crash that did not happen",
            "select count(*) from failed_messages where reason = 'crash_loop'",
        ),
    ] {
        world.expect(what, &world.count(question).await?, &0);
    }
    let known: Vec<String> = sqlx::query_scalar(
        "select message_id from inbox union select coalesce(message_id, '') from failed_messages",
    )
    .fetch_all(&world.pool)
    .await?;
    let known: HashSet<_> = known.iter().map(String::as_str).collect();
    let mut verdict = checker::judge_state(world).await?;
    let events = world.observer.events();
    let mut effects: HashMap<(&str, &str), HashSet<&str>> = HashMap::new();
    for event in &events {
        let effect = (event.causation_id.as_str(), event.kind.as_str());
        effects.entry(effect).or_default().insert(event.id.as_str());
    }
    for command in commands {
        let id = command.message_id.as_str();
        let effect = if command.kind == "allocate" { "allocated" } else { "deallocated" };
        match effects.get(&(id, effect)).map_or(0, HashSet::len) {
            0 if known.contains(id) => verdict.out_of_order.push(format!("{id} had no effect")),
            0 => verdict.lost.push(id.to_owned()),
            1 => {}
            more => verdict.double.push(format!("{id} ×{more}")),
        }
    }
    verdict.took = world.begun.elapsed();
    Ok(verdict)
}

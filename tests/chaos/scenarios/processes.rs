//! Processes that are stopped, restarted, out of date, or out of resources.

use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

use crate::{
    command::lines_of, lab::Lab, load::Load, program::Program, proxy::Proxy, verdict::Verdict, wait::until,
    world::World,
};

/// What a shell reports of a process that a second signal ended.
const ENDED_AT_ONCE: i32 = 130;
/// How often a process is replaced.
const RESTARTS: usize = 10;

/// A worker that sleeps while another does its work, and wakes up in the middle of a transaction.
pub(super) async fn worker_stopped_and_woken(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "worker_stopped_and_woken").await?;
    let hasty = format!("{}?heartbeat=2", lab.rabbit.url());
    let small = ("ALLOCATION__WORKER__MAX_BATCH", "5");
    let sleeper = world.start("worker,relay", &[("AMQP_URL", &hasty), small])?;
    let mut load = Load::seeded(13);
    let portion = load.portion(300);
    let stop = async {
        world.wait_for_more(0).await?;
        sleeper.signal(Signal::STOP)
    };
    let (sent, stopped) = tokio::join!(world.send(&portion), stop);
    sent?;
    stopped?;
    let in_flight = world.in_flight().await?;
    world.expect("messages in its hands", &(in_flight > 0), &true);
    let other = world.start("worker,relay", &[("AMQP_URL", &hasty)])?;
    let replaced = async || anyhow::Ok(world.redeliveries().await? > 0);
    let replaced = until("its messages are handed to the other", Duration::from_secs(30), replaced).await;
    sleeper.signal(Signal::CONT)?;
    world.hit(format!("replaced after {} s", replaced?.as_secs()));
    world.wait_handled(300).await?;
    world.finish(vec![sleeper, other]).await
}

/// A process that is told to stop finishes what is in hand and hands back the rest; another goes on.
pub(super) async fn rolling_restarts(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "rolling_restarts").await?;
    let small = [("ALLOCATION__WORKER__MAX_BATCH", "5")];
    let mut program = world.start("worker,relay", &small)?;
    let mut load = Load::seeded(47);
    for _ in 0..RESTARTS {
        let (before, portion) = (world.handled().await?, load.portion(100));
        let stop = async {
            world.wait_for_more(before).await?;
            let in_flight = world.in_flight().await?;
            program.signal(Signal::TERM)?;
            anyhow::Ok(in_flight)
        };
        let (sent, in_flight) = tokio::join!(world.send(&portion), stop);
        sent?;
        if in_flight? > 0 {
            world.hit("stopped with messages in flight".into());
        }
        let ended = program.ends().await?;
        world.expect("a process that was to stop ended well", &ended.success(), &true);
        program = world.start("worker,relay", &small)?;
        world.drained().await?;
        load.handled();
    }
    world.expect("failed attempts", &world.failed_attempts().await?, &0);
    world.finish(vec![program]).await
}

/// A second signal ends a process at once that cannot finish what it has in hand.
pub(super) async fn second_signal(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "second_signal").await?;
    let proxy = Proxy::to(&world.database_url()).await?;
    let mut program = world.start("worker,relay", &[("DATABASE_URL", proxy.url())])?;
    until("it consumes", lab.patience(), async || {
        anyhow::Ok(program.log().matches("consuming").count() >= 2)
    })
    .await?;
    proxy.freeze(true);
    world.send(&lines_of("LAMP", "line", 50)).await?;
    until("all is handed out", lab.patience(), async || anyhow::Ok(world.ready().await? == 0)).await?;
    world.hit("50 messages in its hands".into());
    program.signal(Signal::TERM)?;
    let told = async || anyhow::Ok(program.log().contains("a second signal ends at once"));
    until("it was told to stop", lab.patience(), told).await?;
    world.expect("alive after the first", &program.is_alive(), &true);
    program.signal(Signal::TERM)?;
    world.expect("exit code", &program.ends().await?.code(), &Some(ENDED_AT_ONCE));
    drop(proxy);
    let next = world.healthy()?;
    world.finish(vec![next]).await
}

/// Of three who migrate at once all succeed; on a schema from the future nobody works.
pub(super) async fn migrators_at_once(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "migrators_at_once").await?;
    let fresh = format!("{}_fresh", world.database);
    let url = lab.postgres.url("postgres", &fresh);
    let mut migrators = Vec::new();
    for _ in 0..3 {
        let mut command = lab.program(&world.namespace, &url, &["migrate"]);
        migrators.push(Program::start(&mut command, world.next_log())?);
    }
    // The last one has been started: if the first ones have not ended, all are at it.
    if migrators.iter_mut().all(Program::is_alive) {
        world.hit("three migrated at once".into());
    }
    for mut migrator in migrators {
        world.expect("exit code of a migrator", &migrator.ends().await?.code(), &Some(0));
    }
    lab.drop_database(&fresh).await?;
    let future = "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
                  values (999999, 'from the future', true, '', 0)";
    world.execute(future).await?;
    let mut refused = world.healthy()?;
    world.expect("it refuses", &refused.ends().await?.code(), &Some(1));
    world.execute("delete from _sqlx_migrations where version = 999999").await?;
    let program = world.healthy()?;
    world.send(&lines_of("LAMP", "line", 5)).await?;
    world.finish(vec![program]).await
}

/// Connections that cannot be made for want of descriptors are servers that are away.
pub(super) async fn no_file_descriptors(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "no_file_descriptors").await?;
    let (database, broker) = (Proxy::to(&world.database_url()).await?, Proxy::to(&lab.rabbit.url()).await?);
    let mut program =
        world.start("worker,relay", &[("DATABASE_URL", database.url()), ("AMQP_URL", broker.url())])?;
    world.send(&lines_of("LAMP", "before", 20)).await?;
    world.drained().await?;
    let before = descriptors(&program, Some(3))?;
    database.cut();
    broker.cut();
    world.send(&lines_of("LAMP", "meanwhile", 20)).await?;
    let waits = async || anyhow::Ok(program.log().contains("waiting for the database"));
    let waited = until("it waits", lab.patience(), waits).await;
    descriptors(&program, before)?;
    waited?;
    world.hit("no descriptor for a connection".into());
    world.wait_handled(40).await?;
    world.expect("failed attempts", &world.failed_attempts().await?, &0);
    world.expect("alive", &program.is_alive(), &true);
    world.finish(vec![program]).await
}

/// Sets how many files a process may have open, and gives back how many it could before.
fn descriptors(program: &Program, limit: Option<u64>) -> anyhow::Result<Option<u64>> {
    let pid = Pid::from_raw(i32::try_from(program.pid())?).context("0 is no process")?;
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    let before = prlimit(Some(pid), Resource::Nofile, Rlimit { current: limit, maximum })?;
    Ok(before.current)
}

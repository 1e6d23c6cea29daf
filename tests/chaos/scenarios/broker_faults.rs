//! RabbitMQ that restarts, dies, hangs up or takes nothing. Processes go on by themselves when it is back.

use std::time::{Duration, Instant};

use lapin::options::QueueDeleteOptions;

use crate::{
    command::{allocate, create_batch, lines_of},
    lab::{CLERK, Lab, Recovery},
    load::Load,
    program::Program,
    verdict::Verdict,
    wait::{until, until_is},
    world::World,
};

/// A queue is on disk by then.
pub(crate) const SETTLED_AFTER: Duration = Duration::from_secs(2);
/// A queue that is there again is found within this time, however busy the machine is.
const FOUND_AGAIN_WITHIN: Duration = Duration::from_secs(30);
/// How long a user stays locked out after it was noticed.
const LASTS: Duration = Duration::from_secs(2);

/// In an orderly restart the broker closes its connections and keeps everything.
pub(super) async fn broker_restarted(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "broker_restarted").await?;
    let restart = async || {
        lab.rabbit.control(&["stop_app"]).await?;
        lab.rabbit.control(&["start_app"]).await?;
        lab.rabbit.accepts().await.map(drop)
    };
    gone_under_load(world, restart).await
}

pub(super) async fn broker_killed(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "broker_killed").await?;
    tokio::time::sleep(SETTLED_AFTER.saturating_sub(world.begun.elapsed())).await; // see the constant
    let kill = async || {
        lab.rabbit.kill()?;
        lab.rabbit.run().await
    };
    gone_under_load(world, kill).await
}

/// The broker goes and comes back while messages are in flight; what was confirmed is done, by the same process.
async fn gone_under_load(
    world: World<'_>,
    fault: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Verdict> {
    let mut program = world.start("worker,relay", &[("ALLOCATION__WORKER__MAX_BATCH", "5")])?;
    let mut load = Load::seeded(14);
    let portion = load.portion(400);
    let goes = async {
        world.wait_for_more(0).await?;
        let in_flight = world.in_flight().await?;
        fault().await?;
        anyhow::Ok(in_flight)
    };
    let (sent, in_flight) = tokio::join!(world.send(&portion), goes);
    sent?;
    let in_flight = in_flight?;
    world.expect("messages in flight", &(in_flight > 0), &true);
    if in_flight > 0 {
        world.hit(format!("{in_flight} messages in flight"));
    }
    world.measure(Recovery::Broker, &create_batch("probe", "LAMP", 1)).await?;
    world.expect("failed attempts", &world.failed_attempts().await?, &0);
    world.expect("alive", &program.is_alive(), &true);
    world.finish(vec![program]).await
}

/// Everybody is thrown out three times, and comes back.
pub(super) async fn connections_closed(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "connections_closed").await?;
    let mut program = world.start("worker,relay", &[("ALLOCATION__WORKER__MAX_BATCH", "5")])?;
    let mut load = Load::seeded(18);
    for _ in 0..3 {
        let (before, portion) = (world.handled().await?, load.portion(150));
        let close = async {
            world.wait_for_more(before).await?;
            lab.rabbit.control(&["close_all_connections", "chaos"]).await
        };
        let (sent, closed) = tokio::join!(world.send(&portion), close);
        sent?;
        closed?;
        world.drained().await?;
        load.handled();
    }
    noticed(&world, &program, "waiting for the broker").await?;
    world.expect("failed attempts", &world.failed_attempts().await?, &0);
    world.expect("alive", &program.is_alive(), &true);
    world.finish(vec![program]).await
}

/// The server cancels the consumer without an error; the queue is found again when it is there again.
pub(super) async fn queue_deleted(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "queue_deleted").await?;
    let mut program = world.start("worker,relay", &[])?;
    world.send(&[allocate("before", "LAMP", 1)]).await?;
    world.drained().await?;
    let consumes = async || anyhow::Ok(lab.rabbit.unacknowledged(&world.namespace).await? == 0);
    until("nothing is in its hands", lab.patience(), consumes).await?;
    let channel = world.link.channel().await?;
    channel.queue_delete(world.named("orders").into(), QueueDeleteOptions::default()).await?;
    noticed(&world, &program, "cancelled the subscription").await?;
    world.cli(&["topology"]).await?.exits(0)?;
    let begin = Instant::now();
    world.send(&[allocate("after", "LAMP", 1)]).await?;
    world.wait_handled(2).await?;
    let found = begin.elapsed();
    world.hit(format!("found again after {} ms", found.as_millis()));
    world.expect("found again soon", &(found < FOUND_AGAIN_WITHIN), &true);
    world.expect("alive", &program.is_alive(), &true);
    world.finish(vec![program]).await
}

/// Nothing is published, but acknowledgements go through: they travel on connections that never publish.
pub(super) async fn broker_in_alarm(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "broker_in_alarm").await?;
    let lines = lines_of("LAMP", "line", 300);
    world.send(&lines).await?;
    lab.rabbit.control(&["set_disk_free_limit", "500000GB"]).await?;
    let program = world.start("worker,relay", &[("ALLOCATION__RELAY__MAX_IN_FLIGHT", "20")]);
    let worked = worked_in_alarm(&world, lines.len()).await;
    lab.rabbit.control(&["set_disk_free_limit", "50MB"]).await?;
    worked?;
    world.expect("failed attempts", &world.failed_attempts().await?, &0);
    world.finish(vec![program?]).await
}

async fn worked_in_alarm(world: &World<'_>, lines: usize) -> anyhow::Result<()> {
    world.wait_handled(lines).await?;
    let unacknowledged = async || world.lab.rabbit.unacknowledged(&world.namespace).await;
    until_is("acknowledgements go through", world.lab.patience(), &0, unacknowledged).await?;
    world.expect("left in the queues", &world.ready().await?, &0);
    let waiting = world.count("select count(*) from outbox").await?;
    world.expect("events wait", &(waiting > 0), &true);
    if waiting > 0 {
        world.hit(format!("{waiting} events wait"));
    }
    Ok(())
}

/// A user that may not enter any more is a broker that is away: no hot loop, no end, and it is found again.
pub(super) async fn user_locked_out(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "user_locked_out").await?;
    let mut program = world.start("worker,relay", &[("AMQP_URL", &lab.rabbit.url_of(CLERK))])?;
    world.send(&lines_of("LAMP", "before", 20)).await?;
    world.drained().await?;
    lab.rabbit.control(&["change_password", CLERK, "changed"]).await?;
    lab.rabbit.control(&["close_all_connections", "chaos"]).await?;
    let noticed = noticed(&world, &program, "waiting for the broker").await;
    tokio::time::sleep(LASTS).await; // the fault takes so long; nothing is waited for
    world.send(&lines_of("LAMP", "meanwhile", 20)).await?;
    world.expect("a quiet log", &(program.log().lines().count() < 200), &true);
    lab.rabbit.control(&["change_password", CLERK, CLERK]).await?;
    noticed?;
    world.wait_handled(40).await?;
    world.expect("alive", &program.is_alive(), &true);
    world.finish(vec![program]).await
}

/// Who may read and not publish events any more goes on with its work; the events wait until it may again.
pub(super) async fn permission_revoked(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "permission_revoked").await?;
    let mut program = world.start("worker,relay", &[("AMQP_URL", &lab.rabbit.url_of(CLERK))])?;
    world.send(&lines_of("LAMP", "before", 20)).await?;
    world.drained().await?;
    let waited = waits_for_permission(&world, &program).await;
    lab.let_clerk_in().await?;
    waited?;
    let gone = async || world.count("select count(*) from outbox").await;
    until_is("the events go", lab.patience(), &0, gone).await?;
    world.expect("failed attempts", &world.failed_attempts().await?, &0);
    world.expect("alive", &program.is_alive(), &true);
    world.finish(vec![program]).await
}

async fn waits_for_permission(world: &World<'_>, program: &Program) -> anyhow::Result<()> {
    let rabbit = &world.lab.rabbit;
    // To the default exchange only, which stands under this name. Channels that are open may remember what they might.
    rabbit.control(&["set_permissions", CLERK, ".*", r"^amq\.default$", ".*"]).await?;
    rabbit.control(&["close_all_connections", "chaos"]).await?;
    world.send(&lines_of("LAMP", "meanwhile", 20)).await?;
    world.wait_handled(40).await?;
    noticed(world, program, "waiting for the broker").await?;
    tokio::time::sleep(LASTS).await; // the fault takes so long; nothing is waited for
    let waiting = world.count("select count(*) from outbox where refused is null").await?;
    world.expect("events that wait, none of them set aside", &waiting, &20);
    world.expect("a quiet log", &(program.log().lines().count() < 200), &true);
    Ok(())
}

async fn noticed(world: &World<'_>, program: &Program, words: &str) -> anyhow::Result<()> {
    until(words, world.lab.patience(), async || anyhow::Ok(program.log().contains(words))).await?;
    world.hit(words.to_owned());
    Ok(())
}

//! Operators whose retry is killed, repeated, late, or met by the next failure.

use allocation::crash_points::CrashPoint;
use lapin::options::QueueDeleteOptions;
use serde_json::{Value, json};

use super::worker_deaths::{SOON, put_aside};
use crate::{
    command::{allocate, change_batch_quantity, create_batch},
    lab::Lab,
    program::Program,
    verdict::Verdict,
    wait::{until, until_is},
    world::World,
};

/// A message that fails once is dead.
const ONE_ATTEMPT: [(&str, &str); 1] = [("ALLOCATION__RETRY__MAX_ATTEMPTS", "1")];
const DEAD: &str = "select count(*) from failed_messages where status = 'dead'";
const RETRYING: &str = "select count(*) from failed_messages where status = 'retrying'";
const RESOLVED: &str = "select count(*) from failed_messages where status = 'resolved'";
const RETRY_ALL: [&str; 4] = ["--json", "dead-letters", "retry", "--all"];

/// Three lines that are dead because their batch is late; it is there now.
async fn dead_and_then_possible(world: &World<'_>) -> anyhow::Result<Program> {
    let worker = world.start("worker", &ONE_ATTEMPT)?;
    let lines: Vec<_> = (0..3).map(|i| allocate(&format!("early-{i}"), "LATE-LAMP", 1)).collect();
    world.send(&lines).await?;
    until_is("they are dead", world.lab.patience(), &3, async || world.count(DEAD).await).await?;
    world.send(&[create_batch("late", "LATE-LAMP", 10)]).await?;
    world.wait_handled(1).await?;
    Ok(worker)
}

pub(super) async fn retry_killed_before_commit(lab: &Lab) -> anyhow::Result<Verdict> {
    killed(World::new(lab, "retry_killed_before_commit").await?, CrashPoint::OperatorBeforeCommit).await
}

pub(super) async fn retry_killed_after_commit(lab: &Lab) -> anyhow::Result<Verdict> {
    killed(World::new(lab, "retry_killed_after_commit").await?, CrashPoint::OperatorAfterCommit).await
}

/// All or nothing of it is on its way; the same call again does what is left.
async fn killed(world: World<'_>, at: CrashPoint) -> anyhow::Result<Verdict> {
    let worker = dead_and_then_possible(&world).await?;
    let mut command = world.lab.program(&world.namespace, &world.database_url(), &RETRY_ALL);
    let mut operator = Program::start(command.env("CRASH_AT", at.name()), world.next_log())?;
    world.died(&mut operator, at).await?;
    let committed = if at == CrashPoint::OperatorAfterCommit { 3 } else { 0 };
    world.expect("on their way", &world.count(RETRYING).await?, &committed);
    let noted = world.count("select count(*) from failed_actions where what = 'retry'").await?;
    world.expect("noted", &noted, &committed);
    let again = world.cli(&RETRY_ALL).await?.exits(0)?.json()?;
    world.expect("done by the second call", &again["done"], &json!(3 - committed));
    let relay = world.start("relay", &[])?;
    world.wait_handled(4).await?;
    world.expect("resolved", &world.count(RESOLVED).await?, &3);
    world.finish(vec![worker, relay]).await
}

/// Two retries at once are one; a retry of what was handled meanwhile says so and does nothing.
pub(super) async fn retried_twice_and_when_handled(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "retried_twice_and_when_handled").await?;
    let worker = dead_and_then_possible(&world).await?;
    // Its sender sends one of them again meanwhile.
    world.upstream.repeat(&[allocate("early-0", "LATE-LAMP", 1)]).await?;
    world.wait_handled(2).await?;
    let ids: Vec<String> =
        sqlx::query_scalar("select id::text from failed_messages order by id").fetch_all(&world.pool).await?;
    let mut retry = vec!["--json", "dead-letters", "retry"];
    retry.extend(ids.iter().map(String::as_str));
    let (one, other) = tokio::join!(world.cli(&retry), world.cli(&retry));
    let done = |told: &Value| told["done"].as_i64().unwrap_or_default();
    let (one, other) = (one?.json()?, other?.json()?);
    world.hit("two retries at once".into());
    world.expect("retries done in all", &(done(&one) + done(&other)), &2);
    let relay = world.start("relay", &[])?;
    world.wait_handled(4).await?;
    world.expect("resolved", &world.count(RESOLVED).await?, &3);
    world.finish(vec![worker, relay]).await
}

/// What the broker put aside is retried, fails once more, waits, and is delivered again: its marks were taken off.
pub(super) async fn retried_and_delayed(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "retried_and_delayed").await?;
    put_aside(&world, &allocate("early", "LATE-LAMP", 1)).await?;
    let program = world.start("worker,relay,archive", &SOON)?;
    until_is("it is dead", lab.patience(), &1, async || world.count(DEAD).await).await?;
    world.cli(&RETRY_ALL).await?.exits(0)?;
    until("it fails again", lab.patience(), async || anyhow::Ok(world.failed_attempts().await? >= 3)).await?;
    world.hit("failed again after the retry".into());
    world.send(&[create_batch("late", "LATE-LAMP", 10)]).await?;
    world.wait_handled(2).await?;
    world.expect("resolved", &world.count(RESOLVED).await?, &1);
    world.finish(vec![program]).await
}

/// Forty retries wait for their queue, and the one of another queue does not wait for them.
pub(super) async fn retries_without_a_queue(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "retries_without_a_queue").await?;
    // So late that the queue is gone before any copy is published: it would be deleted with it.
    let later = [("ALLOCATION__RETRY__INITIAL_INTERVAL", "10s"), ("ALLOCATION__RETRY__JITTER", "0")];
    let program = world.start("worker,relay", &later)?;
    let mut commands: Vec<_> = (0..40).map(|i| allocate(&format!("early-{i}"), "LATE-LAMP", 1)).collect();
    commands.push(change_batch_quantity("late", 90, None));
    world.send(&commands).await?;
    until_is("they wait", lab.patience(), &41, async || world.count(RETRYING).await).await?;
    until_is("nothing else is in the queue", lab.patience(), &0, async || world.ready().await).await?;
    let channel = world.link.channel().await?;
    channel.queue_delete(world.named("orders").into(), QueueDeleteOptions::default()).await?;
    world.send(&[create_batch("late", "LATE-LAMP", 100)]).await?;
    world.wait_handled(2).await?;
    let held = async || {
        world.count("select count(*) from failed_messages where held_because like '%no such queue%'").await
    };
    until_is("forty have no queue", lab.patience(), &40, held).await?;
    world.hit("40 retries without a queue".into());
    world.cli(&["topology"]).await?.exits(0)?;
    world.wait_handled(42).await?;
    world.expect("resolved", &world.count(RESOLVED).await?, &41);
    world.finish(vec![program]).await
}

//! Messages that endanger each other: one that kills, some that come fifty times, some whose handlers are cut off.

use std::time::Duration;

use allocation::crash_points::CrashPoint;

use super::worker_deaths::{SOON, repeated_too_late};
use crate::{
    command::{Command, allocate, change_batch_quantity, create_batch, lines_of},
    journal,
    lab::Lab,
    program::Program,
    proxy::Proxy,
    random::Random,
    verdict::Verdict,
    wait::{until, until_is},
    world::World,
};

/// A transaction in which nothing happens for a second is nobody's; handlers are cut off meanwhile.
const OLD: Duration = Duration::from_millis(1500);

/// Dead after five deaths; its neighbours are done and not blamed; and an operator brings it back.
pub(super) async fn poison_message(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "poison_message").await?;
    let poison = allocate("poison", "LAMP", 1);
    let mut lines = lines_of("LAMP", "line", 50);
    lines.insert(25, poison.clone());
    world.send(&lines).await?;
    let deadly = format!("{}@{}", CrashPoint::WorkerMidHandler.name(), poison.message_id);
    // The first death is not counted: nobody had been handed it before. The next two find it in company, the last two
    // alone.
    for _ in 0..5 {
        let mut victim = world.start("worker", &[("CRASH_AT", &deadly)])?;
        world.died(&mut victim, CrashPoint::WorkerMidHandler).await?;
    }
    let survivor = world.start("worker,relay", &[("CRASH_AT", &deadly)])?;
    world.wait_handled(50).await?;
    let buried = async || {
        world
            .count(
                "select count(*) from failed_messages
                 where status = 'dead' and reason = 'crash_loop' and message_id = 'allocate LAMP for poison'",
            )
            .await
    };
    until_is("the culprit is dead", lab.patience(), &1, buried).await?;
    world.expect("blamed", &world.count("select count(*) from failed_messages").await?, &1);
    survivor.terminate().await?;
    let healthy = world.healthy()?;
    world.cli(&["dead-letters", "retry", "--all"]).await?.exits(0)?;
    world.finish(vec![healthy]).await
}

/// However often and wherever a message comes, it has one effect; also when that has been undone since.
pub(super) async fn duplicates(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "duplicates").await?;
    let lines = [lines_of("LAMP", "lamp", 10), lines_of("SCARCE", "scarce", 10)].concat();
    let mut copies = Vec::new();
    let mut random = Random::seeded(28);
    for line in &lines {
        let times = usize::try_from(1 + random.below(49))?;
        copies.extend(std::iter::repeat_n(line.clone(), times));
    }
    random.shuffle(&mut copies);
    let others = [world.start("worker", &[])?, world.start("worker", &[])?];
    let last = world.healthy()?;
    world.send(&lines).await?;
    let (one, other) = copies.split_at(copies.len() / 2);
    tokio::try_join!(world.upstream.repeat(one), world.upstream.repeat(other))?;
    world.hit(format!("{} repeats of {}", copies.len(), lines.len()));
    world.wait_handled(lines.len()).await?;
    // What is lost must stay so, for the checker to see it.
    if world.handled().await? == i64::try_from(lines.len())? {
        world.in_time(superseded(&world, &lines, others).await)?;
    }
    world.finish(vec![last]).await
}

/// Old lines come once more when they were taken back, and an old count when there is a newer one.
async fn superseded(world: &World<'_>, lines: &[Command], others: [Program; 2]) -> anyhow::Result<Duration> {
    let patience = world.patience();
    until_is("the repeats are taken", patience, &0, async || world.ready().await).await?;
    world.stop(others.into()).await;
    repeated_too_late(world, lines).await?;
    let count = |qty| change_batch_quantity("counted", qty, None);
    for command in [create_batch("counted", "DESK", 60), count(50), count(40)] {
        world.have_handled(&[command], patience).await?;
    }
    world.upstream.repeat(&[count(50)]).await?;
    // The changes of one batch are taken in order, too.
    world.have_handled(&[count(30)], patience).await
}

/// A handler that is cut off while it reads leaves neither a transaction nor half a change.
pub(super) async fn handlers_cut_off(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "handlers_cut_off").await?;
    let proxy = Proxy::to(&world.database_url()).await?;
    let waiting: Vec<_> = (0..10).map(|i| allocate(&format!("large-{i}"), "SCARCE", 100)).collect();
    let first = world.healthy()?;
    world.send(&waiting).await?;
    world.wait_handled(10).await?;
    first.terminate().await?;
    let hasty = [&SOON[..], &[("ALLOCATION__WORKER__HANDLER_TIMEOUT", "1ms"), ("DATABASE_URL", proxy.url())]];
    let hasty = world.start("worker,relay", &hasty.concat())?;
    proxy.delay(Duration::from_millis(5));
    let batches: Vec<_> = (0..5).map(|i| create_batch(&format!("more-{i}"), "SCARCE", 200)).collect();
    world.send(&batches).await?;
    until("handlers are cut off", lab.patience(), async || anyhow::Ok(world.failed_attempts().await? >= 10))
        .await?;
    let timeouts =
        world.count("select count(*) from failed_attempts where error like '%longer than 1ms%'").await?;
    world.hit(format!("{timeouts} handlers cut off"));
    world.expect("handlers cut off", &(timeouts > 0), &true);
    tokio::time::sleep(OLD).await; // only then can what was left open be told from what is at work
    world.expect("transactions left open", &journal::open_transactions(&world.pool).await?, &0);
    hasty.terminate().await?;
    let patient = world.start("worker,relay", &SOON)?;
    world.finish(vec![patient]).await
}

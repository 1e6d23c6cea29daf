//! Messages that endanger each other: one that kills, some that come fifty times, some whose handlers are cut off.

use std::time::Duration;

use allocation::crash_points::CrashPoint;

use super::worker_deaths::SOON;
use crate::{
    command::{allocate, create_batch, lines_of},
    lab::Lab,
    proxy::Proxy,
    random::Random,
    verdict::Verdict,
    wait::{until, until_is},
    world::World,
};

/// Dead after three deaths; its neighbours are done and not blamed; and an operator brings it back.
pub(super) async fn poison_message(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "poison_message").await?;
    let poison = allocate("poison", "LAMP", 1);
    let mut lines = lines_of("LAMP", "line", 50);
    lines.insert(25, poison.clone());
    world.send(&lines).await?;
    let deadly = format!("{}@{}", CrashPoint::WorkerMidHandler.name(), poison.message_id);
    // The first one is not counted; of the next four the last two find it alone.
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

/// However often and wherever a message comes, it has one effect.
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
    let workers = [world.start("worker", &[])?, world.start("worker", &[])?, world.healthy()?];
    world.send(&lines).await?;
    let (one, other) = copies.split_at(copies.len() / 2);
    tokio::try_join!(world.upstream.repeat(one), world.upstream.repeat(other))?;
    world.hit(format!("{} repeats of {}", copies.len(), lines.len()));
    world.finish(workers.into()).await
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
    hasty.terminate().await?;
    let patient = world.start("worker,relay", &SOON)?;
    world.finish(vec![patient]).await
}

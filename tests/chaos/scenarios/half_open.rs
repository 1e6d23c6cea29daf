//! Servers that say nothing while their connections look alive.

use std::time::Duration;

use crate::{
    command::lines_of, lab::Lab, load::Load, program::Program, proxy::Proxy, verdict::Verdict, wait::until,
    world::World,
};

/// Silence is noticed within this time: patience, two heartbeats, a new connection's timeout.
const NOTICED_WITHIN: Duration = Duration::from_secs(40);
/// With a heartbeat of 2 s the broker's is: sooner than any default would notice.
const HEARTBEAT_NOTICES_WITHIN: Duration = Duration::from_secs(10);
/// How long the database stays silent after that was noticed: longer than a statement, its rollback and a probe, each
/// with its patience of 2 s, and the wait for a connection take together. So nobody's probe is answered after a silence
/// that would then count as an attempt.
const SILENT_ON: Duration = Duration::from_secs(12);

pub(super) async fn database_silent_then_back(lab: &Lab) -> anyhow::Result<Verdict> {
    database_silent(World::new(lab, "database_silent_then_back").await?, false).await
}

pub(super) async fn database_silent_then_gone(lab: &Lab) -> anyhow::Result<Verdict> {
    database_silent(World::new(lab, "database_silent_then_gone").await?, true).await
}

/// No message is blamed for the silence, and no connection of the pool is lost to it.
async fn database_silent(world: World<'_>, gone: bool) -> anyhow::Result<Verdict> {
    let proxy = Proxy::to(&world.database_url()).await?;
    let impatient = [("DATABASE_URL", proxy.url()), ("ALLOCATION__DATABASE__TIMEOUT", "2s")];
    let mut program = world.start("worker,relay", &impatient)?;
    let mut load = Load::seeded(23);
    world.send(&load.portion(200)).await?;
    world.wait_for_more(0).await?;
    proxy.freeze(true);
    world.send(&load.portion(50)).await?;
    noticed(&world, &program, "waiting for the database").await?;
    tokio::time::sleep(SILENT_ON).await; // the fault takes so long; nothing is waited for
    if gone {
        proxy.cut();
    }
    proxy.freeze(false);
    world.wait_handled(250).await?;
    let failed = world.count("select count(*) from failed_messages").await?;
    world.expect("blamed for the silence", &failed, &0);
    load.handled();
    world.send(&load.portion(250)).await?;
    world.wait_handled(500).await?;
    world.expect("alive", &program.is_alive(), &true);
    world.finish(vec![program]).await
}

/// The heartbeat finds out, and messages that were held come again without harm.
pub(super) async fn broker_silent(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "broker_silent").await?;
    let proxy = Proxy::to(&lab.rabbit.url()).await?;
    let hasty = format!("{}?heartbeat=2", proxy.url());
    let mut program = world.start("worker,relay", &[("AMQP_URL", &hasty)])?;
    let mut load = Load::seeded(17);
    world.send(&load.portion(200)).await?;
    world.wait_for_more(0).await?;
    proxy.freeze(true);
    world.send(&load.portion(50)).await?;
    let within = noticed(&world, &program, "waiting for the broker").await?;
    world.expect("noticed by the heartbeat", &(within < HEARTBEAT_NOTICES_WITHIN), &true);
    proxy.cut();
    proxy.freeze(false);
    world.wait_handled(250).await?;
    world.expect("failed attempts", &world.failed_attempts().await?, &0);
    world.expect("alive", &program.is_alive(), &true);
    world.finish(vec![program]).await
}

/// Both servers hang up and turn everybody away for a while.
pub(super) async fn newcomers_refused(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "newcomers_refused").await?;
    let links = [Proxy::to(&world.database_url()).await?, Proxy::to(&lab.rabbit.url()).await?];
    let urls = [("DATABASE_URL", links[0].url()), ("AMQP_URL", links[1].url())];
    let mut program = world.start("worker,relay", &urls)?;
    let mut load = Load::seeded(22);
    world.send(&load.portion(200)).await?;
    world.wait_for_more(0).await?;
    for link in &links {
        link.refuse(true);
        link.cut();
    }
    world.send(&load.portion(50)).await?;
    for words in ["waiting for the database", "waiting for the broker"] {
        noticed(&world, &program, words).await?;
    }
    for link in &links {
        link.refuse(false);
    }
    world.wait_handled(250).await?;
    world.expect("failed attempts", &world.failed_attempts().await?, &0);
    world.expect("alive", &program.is_alive(), &true);
    world.finish(vec![program]).await
}

async fn noticed(world: &World<'_>, program: &Program, words: &str) -> anyhow::Result<Duration> {
    let within = until(words, NOTICED_WITHIN, async || anyhow::Ok(program.log().contains(words))).await?;
    world.hit(format!("{words}, after {} s", within.as_secs()));
    Ok(within)
}

/// The broker takes back what was not acknowledged in time while somebody still works on it: one effect.
pub(super) async fn consumer_timeout(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "consumer_timeout").await?;
    let proxy = Proxy::to(&world.database_url()).await?;
    acknowledged_within(lab, 3000, 1000).await?;
    let program = world.start("worker,relay", &[("DATABASE_URL", proxy.url())])?;
    let taken_back = taken_back(&world, &program, &proxy).await;
    acknowledged_within(lab, 1_800_000, 60_000).await?;
    world.hit(format!("taken back after {} s", taken_back?.as_secs()));
    world.wait_handled(20).await?;
    world.expect("failed attempts", &world.failed_attempts().await?, &0);
    world.finish(vec![program]).await
}

async fn taken_back(world: &World<'_>, program: &Program, proxy: &Proxy) -> anyhow::Result<Duration> {
    let patience = world.lab.patience();
    until("it consumes", patience, async || anyhow::Ok(program.log().matches("consuming").count() >= 2))
        .await?;
    proxy.freeze(true);
    world.send(&lines_of("LAMP", "line", 20)).await?;
    until("all is handed out", patience, async || anyhow::Ok(world.ready().await? == 0)).await?;
    let back = async || anyhow::Ok(world.ready().await? > 0);
    let taken_back = until("the broker takes it back", NOTICED_WITHIN, back).await;
    proxy.freeze(false);
    taken_back
}

/// How long the broker waits for acknowledgements on channels opened from now on, and how often it looks, in ms.
async fn acknowledged_within(lab: &Lab, timeout: u32, tick: u32) -> anyhow::Result<()> {
    let settings = format!(
        "application:set_env(rabbit, consumer_timeout, {timeout}),
         application:set_env(rabbit, channel_tick_interval, {tick})."
    );
    lab.rabbit.control(&["eval", &settings]).await.map(drop)
}

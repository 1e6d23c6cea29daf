//! PostgreSQL that crashes, goes away, or is cut off around a commit. None of it is an attempt, and nobody dies of it.

use std::time::Duration;

use crate::{
    command::{create_batch, lines_of},
    lab::{Lab, Recovery},
    load::Load,
    protocol::Moment,
    proxy::{Cut, Proxy},
    verdict::Verdict,
    wait::until,
    world::World,
};

/// How often a backend is killed.
const CRASHES: usize = 10;
/// How long the server is away.
const AWAY: Duration = Duration::from_secs(10);
/// A server that came back is found within this time, however busy the machine is; how soon it was is measured.
const FOUND_AGAIN_WITHIN: Duration = Duration::from_secs(30);

/// Whether it was committed is unknown; the inbox knows.
pub(super) async fn commit_reply_lost(lab: &Lab) -> anyhow::Result<Verdict> {
    commit_cut(World::new(lab, "commit_reply_lost").await?, Moment::Committed).await
}

pub(super) async fn commit_never_arrives(lab: &Lab) -> anyhow::Result<Verdict> {
    commit_cut(World::new(lab, "commit_never_arrives").await?, Moment::Commit).await
}

async fn commit_cut(world: World<'_>, moment: Moment) -> anyhow::Result<Verdict> {
    let proxy = Proxy::to(&world.database_url()).await?;
    let environment = [("DATABASE_URL", proxy.url()), ("ALLOCATION__WORKER__MAX_BATCH", "10")];
    let mut program = world.start("worker,relay", &environment)?;
    proxy.trap(Cut::Before, moment, 1);
    world.send(&lines_of("LAMP", "line", 60)).await?;
    until("the connection breaks", world.lab.patience(), async || anyhow::Ok(proxy.sprung() > 0)).await?;
    world.hit(format!("cut before {moment:?}"));
    world.wait_handled(60).await?;
    world.expect("failed attempts", &world.failed_attempts().await?, &0);
    world.expect("alive", &program.is_alive(), &true);
    world.finish(vec![program]).await
}

/// The link breaks in the middle of statements, wherever that is, five times.
pub(super) async fn statements_torn(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "statements_torn").await?;
    let proxy = Proxy::to(&world.database_url()).await?;
    let environment = [("DATABASE_URL", proxy.url()), ("ALLOCATION__WORKER__MAX_BATCH", "10")];
    let mut program = world.start("worker,relay", &environment)?;
    let mut load = Load::seeded(16);
    for round in 1..=5_u32 {
        world.drained().await?;
        load.handled();
        proxy.cut_after(1777 * usize::try_from(round)?);
        world.send(&load.portion(60)).await?;
        until("the link breaks", world.lab.patience(), async || anyhow::Ok(proxy.sprung() >= round)).await?;
        world.hit("cut within a statement".into());
    }
    world.drained().await?;
    world.expect("failed attempts", &world.failed_attempts().await?, &0);
    world.expect("alive", &program.is_alive(), &true);
    world.finish(vec![program]).await
}

/// Every session is dropped and the server recovers, again and again.
pub(super) async fn backends_killed(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "backends_killed").await?;
    let mut program = world.start("worker,relay", &[("ALLOCATION__WORKER__MAX_BATCH", "5")])?;
    let mut load = Load::seeded(21);
    for round in 0..CRASHES {
        let before = world.handled().await?;
        let portion = load.portion(60);
        let crash = async {
            world.wait_for_more(before).await?;
            lab.postgres.crash_a_backend(&world.database).await
        };
        let (sent, open) = tokio::join!(world.send(&portion), crash);
        sent?;
        if open? > 0 {
            world.hit("crashed with open transactions".into());
        }
        let probe = create_batch(&format!("probe-{round}"), "LAMP", 1);
        world.measure(Recovery::Database, &probe).await?;
        world.drained().await?;
        load.handled();
    }
    world.expect("failed attempts", &world.failed_attempts().await?, &0);
    world.expect("alive", &program.is_alive(), &true);
    world.finish(vec![program]).await
}

/// The whole server dies, and is started again.
pub(super) async fn postmaster_killed(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "postmaster_killed").await?;
    let mut program = world.start("worker,relay", &[("ALLOCATION__WORKER__MAX_BATCH", "5")])?;
    let lines = lines_of("LAMP", "line", 200);
    let crash = async {
        world.wait_for_more(0).await?;
        let in_flight = world.in_flight().await?;
        lab.postgres.crash().await?;
        anyhow::Ok(in_flight)
    };
    let (sent, in_flight) = tokio::join!(world.send(&lines), crash);
    sent?;
    if in_flight? > 0 {
        world.hit("crashed with messages in flight".into());
    }
    world.measure(Recovery::Database, &create_batch("probe", "LAMP", 1)).await?;
    world.expect("failed attempts", &world.failed_attempts().await?, &0);
    world.expect("alive", &program.is_alive(), &true);
    world.finish(vec![program]).await
}

/// Messages are held meanwhile, and work goes on as soon as the server is back.
pub(super) async fn database_down(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "database_down").await?;
    let mut program = world.start("worker,relay", &[("ALLOCATION__WORKER__MAX_BATCH", "5")])?;
    let (before, meanwhile) = (lines_of("LAMP", "before", 100), lines_of("DESK", "meanwhile", 100));
    let stop = async {
        world.wait_for_more(0).await?;
        let in_flight = world.in_flight().await?;
        lab.postgres.stop_at_once()?;
        anyhow::Ok(in_flight)
    };
    let (sent, in_flight) = tokio::join!(world.send(&before), stop);
    sent?;
    in_flight?;
    world.send(&meanwhile).await?;
    tokio::time::sleep(AWAY).await; // the fault takes so long; nothing is waited for
    let held = lab.rabbit.unacknowledged(&world.namespace).await?;
    world.expect("messages held", &(held > 0), &true);
    if held > 0 {
        world.hit(format!("{held} messages held"));
    }
    lab.postgres.run().await?;
    // It may have begun before we asked.
    let found = world.wait_for_more(world.handled().await?.min(199)).await?;
    world.lab.recovered(Recovery::Database, found);
    world.expect("found again soon", &(found < FOUND_AGAIN_WITHIN), &true);
    world.expect("failed attempts", &world.failed_attempts().await?, &0);
    world.expect("alive", &program.is_alive(), &true);
    world.finish(vec![program]).await
}

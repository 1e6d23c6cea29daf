//! Relays that are killed around the publication of a retry: however often its copy goes out, the command is done once
//! and each copy that counts is one attempt.

use allocation::crash_points::CrashPoint;

use super::worker_deaths::SOON;
use crate::{
    command::{allocate, create_batch},
    lab::Lab,
    verdict::Verdict,
    wait::until_is,
    world::World,
};

pub(super) async fn relay_killed_before_retry(lab: &Lab) -> anyhow::Result<Verdict> {
    killed(World::new(lab, "relay_killed_before_retry").await?, CrashPoint::RetryClaimed).await
}

pub(super) async fn relay_killed_before_retry_confirmed(lab: &Lab) -> anyhow::Result<Verdict> {
    killed(World::new(lab, "relay_killed_before_retry_confirmed").await?, CrashPoint::RetryPublished).await
}

pub(super) async fn relay_killed_before_retry_noted(lab: &Lab) -> anyhow::Result<Verdict> {
    killed(World::new(lab, "relay_killed_before_retry_noted").await?, CrashPoint::RetryConfirmed).await
}

pub(super) async fn relay_killed_after_retry_noted(lab: &Lab) -> anyhow::Result<Verdict> {
    killed(World::new(lab, "relay_killed_after_retry_noted").await?, CrashPoint::RetryMarked).await
}

async fn killed(world: World<'_>, at: CrashPoint) -> anyhow::Result<Verdict> {
    let worker = world.start("worker", &SOON)?;
    let early = allocate("early", "LATE-LAMP", 1);
    world.send(&[early]).await?;
    let failed = async || world.failed_attempts().await;
    until_is("it fails", world.lab.patience(), &1, failed).await?;
    worker.terminate().await?;
    world.dies(at, "relay", &[]).await?;
    let noted = world.count("select count(*) from failed_messages where published_at is not null").await?;
    world.expect("noted", &noted, &i64::from(at == CrashPoint::RetryMarked));
    // Its copy, if one was published, fails once more; the next one finds its batch.
    let worker = world.start("worker", &SOON)?;
    let taken = async || world.ready().await;
    until_is("the copy is taken", world.lab.patience(), &0, taken).await?;
    world.send(&[create_batch("late", "LATE-LAMP", 10)]).await?;
    let created = async || world.count("select count(*) from inbox where queue = 'stock'").await;
    until_is("the batch is there", world.lab.patience(), &1, created).await?;
    let relay = world.start("relay", &[])?;
    world.wait_handled(2).await?;
    let attempts = world.failed_attempts().await?;
    world.expect("attempts: one or two", &(1..=2).contains(&attempts), &true);
    let resolved = world.count("select count(*) from failed_messages where status = 'resolved'").await?;
    world.expect("resolved", &resolved, &1);
    world.finish(vec![worker, relay]).await
}

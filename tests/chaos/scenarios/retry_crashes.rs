//! Relays that are killed while they publish a retry: however many copies are published, the command takes effect
//! once, and each counted copy is one attempt.

use allocation::faults::CrashPoint;

use super::worker_crashes::FAST_RETRY;
use crate::{
    check_report::CheckReport,
    cluster::Cluster,
    command::{allocate, create_batch},
    kill_point::KillPoint::{self, Port},
    test_system::TestSystem,
    wait::wait_until_equal,
};

pub(super) async fn relay_killed_before_retry(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    relay_killed(TestSystem::new(cluster, "relay_killed_before_retry").await?, Port(CrashPoint::RetryClaimed))
        .await
}

pub(super) async fn relay_killed_before_retry_confirmed(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    relay_killed(
        TestSystem::new(cluster, "relay_killed_before_retry_confirmed").await?,
        KillPoint::RETRY_PUBLISHED,
    )
    .await
}

pub(super) async fn relay_killed_before_retry_marked(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    relay_killed(
        TestSystem::new(cluster, "relay_killed_before_retry_marked").await?,
        Port(CrashPoint::RetryConfirmed),
    )
    .await
}

pub(super) async fn relay_killed_after_retry_marked(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    relay_killed(
        TestSystem::new(cluster, "relay_killed_after_retry_marked").await?,
        Port(CrashPoint::RetryMarked),
    )
    .await
}

async fn relay_killed(system: TestSystem<'_>, at: KillPoint) -> anyhow::Result<CheckReport> {
    let worker = system.start("worker", &FAST_RETRY)?;
    let early = allocate("early", "LATE-LAMP", 1);
    system.send(&[early]).await?;
    let failed = async || system.failed_attempts().await;
    wait_until_equal("the command fails", system.cluster.timeout(), &1, failed).await?;
    worker.terminate().await?;
    system.run_until_killed(at, "relay", &[]).await?;
    let marked = system.count("select count(*) from failed_messages where published_at is not null").await?;
    system.expect("marked", &marked, &i64::from(at == Port(CrashPoint::RetryMarked)));
    // A published copy fails again; the next one finds the batch.
    let worker = system.start("worker", &FAST_RETRY)?;
    let ready = async || system.ready_commands().await;
    wait_until_equal("the copy is consumed", system.cluster.timeout(), &0, ready).await?;
    system.send(&[create_batch("late", "LATE-LAMP", 10)]).await?;
    let created = async || system.count("select count(*) from inbox where queue = 'stock'").await;
    wait_until_equal("the batch exists", system.cluster.timeout(), &1, created).await?;
    let relay = system.start("relay", &[])?;
    system.wait_handled(2).await?;
    let attempts = system.failed_attempts().await?;
    system.expect("one or two attempts", &(1..=2).contains(&attempts), &true);
    let resolved = system.count("select count(*) from failed_messages where status = 'resolved'").await?;
    system.expect("resolved", &resolved, &1);
    system.finish(vec![worker, relay]).await
}

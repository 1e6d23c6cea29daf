//! A worker is killed at one crash point, and another one continues.

use std::time::Duration;

use allocation::faults::CrashPoint;
use anyhow::Context as _;
use lapin::options::{BasicGetOptions, BasicRejectOptions};

use crate::{
    check_report::CheckReport,
    cluster::Cluster,
    command::{Command, allocate, create_batch, order_lines},
    kill_point::KillPoint::{self, Port},
    test_system::TestSystem,
    wait::wait_until_equal,
};

/// Small units of work, so that a crash leaves work for the next worker.
const SMALL_BATCHES: (&str, &str) = ("ALLOCATION__WORKER__MAX_BATCH", "10");
/// Lines of one SKU share a partition, so no other work runs at the crash.
const LINES: u32 = 40;
/// Failed commands are retried soon, and often enough.
pub(super) const FAST_RETRY: [(&str, &str); 3] = [
    ("ALLOCATION__RETRY__INITIAL_INTERVAL", "100ms"),
    ("ALLOCATION__RETRY__MULTIPLIER", "1"),
    ("ALLOCATION__RETRY__MAX_ATTEMPTS", "50"),
];

pub(super) async fn killed_before_begin(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    worker_killed(TestSystem::new(cluster, "killed_before_begin").await?, Port(CrashPoint::WorkerDelivered))
        .await
}

pub(super) async fn killed_in_transaction(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    worker_killed(TestSystem::new(cluster, "killed_in_transaction").await?, Port(CrashPoint::WorkerBegun))
        .await
}

pub(super) async fn killed_after_inbox_write(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    worker_killed(
        TestSystem::new(cluster, "killed_after_inbox_write").await?,
        Port(CrashPoint::WorkerInboxWritten),
    )
    .await
}

pub(super) async fn killed_mid_handler(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    worker_killed(TestSystem::new(cluster, "killed_mid_handler").await?, Port(CrashPoint::WorkerMidHandler))
        .await
}

pub(super) async fn killed_mid_write(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    worker_killed(TestSystem::new(cluster, "killed_mid_write").await?, KillPoint::WORKER_MID_WRITE).await
}

pub(super) async fn killed_before_commit(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    worker_killed(TestSystem::new(cluster, "killed_before_commit").await?, KillPoint::WORKER_BEFORE_COMMIT)
        .await
}

pub(super) async fn killed_after_commit(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    worker_killed(TestSystem::new(cluster, "killed_after_commit").await?, Port(CrashPoint::WorkerAfterCommit))
        .await
}

pub(super) async fn killed_before_acknowledgement(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    worker_killed(
        TestSystem::new(cluster, "killed_before_acknowledgement").await?,
        Port(CrashPoint::WorkerBeforeAck),
    )
    .await
}

/// A crash before the commit leaves no change, after it all changes. The next worker does the rest without failed
/// attempts. A command that is sent again after its line was deallocated has no effect.
async fn worker_killed(system: TestSystem<'_>, at: KillPoint) -> anyhow::Result<CheckReport> {
    let lines = order_lines("LAMP", "line", LINES);
    system.send(&lines).await?;
    system.run_until_killed(at, "worker", &[SMALL_BATCHES]).await?;
    let committed = matches!(at, Port(CrashPoint::WorkerAfterCommit | CrashPoint::WorkerBeforeAck));
    for (description, query) in [
        ("inbox rows", "select count(*) from inbox"),
        ("lines", "select count(*) from order_lines"),
        ("events", "select count(*) from outbox"),
    ] {
        system.expect(description, &(system.count(query).await? > 0), &committed);
    }
    let process = system.start_all_roles()?;
    system.wait_handled(lines.len()).await?;
    // A lost message must stay lost until the check.
    if system.handled().await? == i64::from(LINES) {
        system.note_timeout(resend_superseded(&system, &lines).await)?;
    }
    system.expect("redelivered", &(system.redeliveries().await? > 0), &true);
    system.expect("failed attempts", &system.failed_attempts().await?, &0);
    system.finish(vec![process]).await
}

/// Deallocates lines, and then sends the old allocations again: they must have no effect. Requires a single worker.
pub(super) async fn resend_superseded(
    system: &TestSystem<'_>,
    lines: &[Command],
) -> anyhow::Result<Duration> {
    let deallocations: Vec<_> = lines.iter().filter_map(Command::deallocation).collect();
    system.send_and_wait(&deallocations, system.timeout()).await?;
    system.resend_old(lines, 0, system.timeout()).await
}

pub(super) async fn killed_before_failure_commit(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "killed_before_failure_commit").await?;
    killed_while_recording(system, KillPoint::FAILURE_BEFORE_COMMIT).await
}

pub(super) async fn killed_after_failure_commit(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "killed_after_failure_commit").await?;
    killed_while_recording(system, Port(CrashPoint::FailureAfterCommit)).await
}

/// One delivery is one attempt, whether its worker died before or after the attempt was recorded.
async fn killed_while_recording(system: TestSystem<'_>, at: KillPoint) -> anyhow::Result<CheckReport> {
    let early = allocate("early", "LATE-LAMP", 1);
    let lines = [order_lines("LAMP", "line", 5), vec![early]].concat();
    system.send(&lines).await?;
    system.run_until_killed(at, "worker", &FAST_RETRY).await?;
    let recorded = i64::from(at == Port(CrashPoint::FailureAfterCommit));
    system.expect("recorded", &system.failed_attempts().await?, &recorded);
    let worker = system.start("worker", &FAST_RETRY)?;
    system.wait_handled(5).await?;
    let attempts = async || system.failed_attempts().await;
    wait_until_equal("the delivery is one attempt", system.cluster.timeout(), &1, attempts).await?;
    let starts = async || system.count("select count(*) from message_starts").await;
    wait_until_equal("the redelivery is finished", system.cluster.timeout(), &0, starts).await?;
    system.expect("attempts before a retry", &system.failed_attempts().await?, &1);
    system.send(&[create_batch("late", "LATE-LAMP", 10)]).await?;
    system.wait_handled(6).await?;
    let relay = system.start("relay", &[])?;
    system.wait_handled(7).await?;
    let resolved = system.count("select count(*) from failed_messages where status = 'resolved'").await?;
    system.expect("resolved", &resolved, &1);
    system.finish(vec![worker, relay]).await
}

pub(super) async fn archive_killed_before_recording(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "archive_killed_before_recording").await?;
    archive_killed(system, Port(CrashPoint::ArchiveBefore)).await
}

pub(super) async fn archive_killed_after_recording(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "archive_killed_after_recording").await?;
    archive_killed(system, Port(CrashPoint::ArchiveAfter)).await
}

/// A message that the broker dead-lettered is recorded once.
async fn archive_killed(system: TestSystem<'_>, at: KillPoint) -> anyhow::Result<CheckReport> {
    let line = allocate("rejected", "LAMP", 1);
    dead_letter_by_broker(&system, &line).await?;
    system.run_until_killed(at, "archive", &[]).await?;
    let recorded = i64::from(at == Port(CrashPoint::ArchiveAfter));
    system.expect("recorded", &system.count("select count(*) from failed_messages").await?, &recorded);
    system.expect_dead_letter(Some(&line.message_id), "rejected", line.body.to_string().as_bytes());
    let process = system.start_all_roles()?;
    system.finish(vec![process]).await
}

/// Rejects a command as another consumer, so that the broker dead-letters it.
pub(super) async fn dead_letter_by_broker(system: &TestSystem<'_>, command: &Command) -> anyhow::Result<()> {
    system.send(std::slice::from_ref(command)).await?;
    let channel = system.broker_client.channel().await?;
    let message =
        channel.basic_get(system.qualified(command.queue()).into(), BasicGetOptions::default()).await?;
    let message = message.context("the command is in its queue")?;
    message.delivery.acker.reject(BasicRejectOptions { requeue: false }).await?;
    let dead_letters = system.qualified(&format!("{}.dlq", command.queue()));
    let waiting = async || system.broker_client.ready_messages(&dead_letters).await;
    wait_until_equal("the broker dead-letters the command", system.cluster.timeout(), &1, waiting).await?;
    Ok(())
}

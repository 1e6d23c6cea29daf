//! A worker that is killed at one place of its path, and another that comes after it.

use std::time::Duration;

use allocation::crash_points::CrashPoint;
use anyhow::Context as _;
use lapin::options::{BasicGetOptions, BasicRejectOptions};

use crate::{
    command::{Command, allocate, create_batch, lines_of},
    lab::Lab,
    verdict::Verdict,
    wait::until_is,
    world::World,
};

/// Units of work are small, so that a death leaves something to others.
const SMALL_BATCHES: (&str, &str) = ("ALLOCATION__WORKER__MAX_BATCH", "10");
/// Lines of one SKU share a lane: when it dies, nothing else is at work.
const LINES: u32 = 40;
/// What failed is tried again soon, and often enough.
pub(super) const SOON: [(&str, &str); 3] = [
    ("ALLOCATION__RETRY__INITIAL_INTERVAL", "100ms"),
    ("ALLOCATION__RETRY__MULTIPLIER", "1"),
    ("ALLOCATION__RETRY__MAX_ATTEMPTS", "50"),
];

pub(super) async fn killed_before_begin(lab: &Lab) -> anyhow::Result<Verdict> {
    killed(World::new(lab, "killed_before_begin").await?, CrashPoint::WorkerDelivered).await
}

pub(super) async fn killed_in_a_transaction(lab: &Lab) -> anyhow::Result<Verdict> {
    killed(World::new(lab, "killed_in_a_transaction").await?, CrashPoint::WorkerBegun).await
}

pub(super) async fn killed_after_inbox(lab: &Lab) -> anyhow::Result<Verdict> {
    killed(World::new(lab, "killed_after_inbox").await?, CrashPoint::WorkerInboxWritten).await
}

pub(super) async fn killed_mid_handler(lab: &Lab) -> anyhow::Result<Verdict> {
    killed(World::new(lab, "killed_mid_handler").await?, CrashPoint::WorkerMidHandler).await
}

pub(super) async fn killed_mid_write(lab: &Lab) -> anyhow::Result<Verdict> {
    killed(World::new(lab, "killed_mid_write").await?, CrashPoint::WorkerMidWrite).await
}

pub(super) async fn killed_before_commit(lab: &Lab) -> anyhow::Result<Verdict> {
    killed(World::new(lab, "killed_before_commit").await?, CrashPoint::WorkerBeforeCommit).await
}

pub(super) async fn killed_after_commit(lab: &Lab) -> anyhow::Result<Verdict> {
    killed(World::new(lab, "killed_after_commit").await?, CrashPoint::WorkerAfterCommit).await
}

pub(super) async fn killed_before_acknowledgement(lab: &Lab) -> anyhow::Result<Verdict> {
    killed(World::new(lab, "killed_before_acknowledgement").await?, CrashPoint::WorkerBeforeAck).await
}

/// Before the commit a death leaves nothing, after it everything; either way the next worker does the rest, and
/// nobody is blamed. What comes once more when its line is gone stays without effect.
async fn killed(world: World<'_>, at: CrashPoint) -> anyhow::Result<Verdict> {
    let lines = lines_of("LAMP", "line", LINES);
    world.send(&lines).await?;
    world.dies(at, "worker", &[SMALL_BATCHES]).await?;
    let committed = matches!(at, CrashPoint::WorkerAfterCommit | CrashPoint::WorkerBeforeAck);
    for (what, question) in [
        ("handled, says the inbox", "select count(*) from inbox"),
        ("lines", "select count(*) from order_lines"),
        ("events", "select count(*) from outbox"),
    ] {
        world.expect(what, &(world.count(question).await? > 0), &committed);
    }
    let next = world.healthy()?;
    world.wait_handled(lines.len()).await?;
    // What is lost must stay so, for the checker to see it.
    if world.handled().await? == i64::from(LINES) {
        world.in_time(repeated_too_late(&world, &lines).await)?;
    }
    world.expect("redelivered", &(world.redeliveries().await? > 0), &true);
    world.expect("failed attempts", &world.failed_attempts().await?, &0);
    world.finish(vec![next]).await
}

/// Takes lines back, and then asks for them once more under the old ids: they must not be there again. Only one worker
/// may be left.
pub(super) async fn repeated_too_late(world: &World<'_>, lines: &[Command]) -> anyhow::Result<Duration> {
    let cancelled: Vec<_> = lines.iter().filter_map(Command::cancellation).collect();
    world.have_handled(&cancelled, world.patience()).await?;
    world.repeat_old(lines, 0, world.patience()).await
}

pub(super) async fn killed_before_recording_a_failure(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "killed_before_recording_a_failure").await?;
    killed_failing(world, CrashPoint::FailureBeforeCommit).await
}

pub(super) async fn killed_after_recording_a_failure(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "killed_after_recording_a_failure").await?;
    killed_failing(world, CrashPoint::FailureAfterCommit).await
}

/// One delivery is one attempt, whether its worker died before or after that was recorded.
async fn killed_failing(world: World<'_>, at: CrashPoint) -> anyhow::Result<Verdict> {
    let early = allocate("early", "LATE-LAMP", 1);
    let lines = [lines_of("LAMP", "line", 5), vec![early]].concat();
    world.send(&lines).await?;
    world.dies(at, "worker", &SOON).await?;
    let recorded = i64::from(at == CrashPoint::FailureAfterCommit);
    world.expect("recorded", &world.failed_attempts().await?, &recorded);
    let worker = world.start("worker", &SOON)?;
    world.wait_handled(5).await?;
    let attempts = async || world.failed_attempts().await;
    until_is("the delivery is one attempt", world.lab.patience(), &1, attempts).await?;
    let ended = async || world.count("select count(*) from message_starts").await;
    until_is("the redelivery is over", world.lab.patience(), &0, ended).await?;
    world.expect("attempts before any retry", &world.failed_attempts().await?, &1);
    world.send(&[create_batch("late", "LATE-LAMP", 10)]).await?;
    world.wait_handled(6).await?;
    let relay = world.start("relay", &[])?;
    world.wait_handled(7).await?;
    let resolved = world.count("select count(*) from failed_messages where status = 'resolved'").await?;
    world.expect("resolved", &resolved, &1);
    world.finish(vec![worker, relay]).await
}

pub(super) async fn archive_killed_before_recording(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "archive_killed_before_recording").await?;
    archive_killed(world, CrashPoint::ArchiveBefore).await
}

pub(super) async fn archive_killed_after_recording(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "archive_killed_after_recording").await?;
    archive_killed(world, CrashPoint::ArchiveAfter).await
}

/// What the broker put aside is in the ledger once.
async fn archive_killed(world: World<'_>, at: CrashPoint) -> anyhow::Result<Verdict> {
    let line = allocate("rejected", "LAMP", 1);
    put_aside(&world, &line).await?;
    world.dies(at, "archive", &[]).await?;
    let recorded = i64::from(at == CrashPoint::ArchiveAfter);
    world.expect("in the ledger", &world.count("select count(*) from failed_messages").await?, &recorded);
    world.expect_dead(Some(&line.message_id), "rejected", line.body.to_string().as_bytes());
    let next = world.healthy()?;
    world.finish(vec![next]).await
}

/// Another tool rejects a command, and the broker puts it aside.
pub(super) async fn put_aside(world: &World<'_>, command: &Command) -> anyhow::Result<()> {
    world.send(std::slice::from_ref(command)).await?;
    let channel = world.link.channel().await?;
    let taken = channel.basic_get(world.named(command.queue()).into(), BasicGetOptions::default()).await?;
    let taken = taken.context("the command is in its queue")?;
    taken.delivery.acker.reject(BasicRejectOptions { requeue: false }).await?;
    let dead_letters = world.named(&format!("{}.dlq", command.queue()));
    let waiting = async || world.link.ready(&dead_letters).await;
    until_is("the broker puts it aside", world.lab.patience(), &1, waiting).await?;
    Ok(())
}

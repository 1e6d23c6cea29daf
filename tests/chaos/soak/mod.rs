//! Random faults under load, from a seed. Nothing may be lost, repeated, out of order or dead-lettered.
//!
//! No fault is injected while a message has an unfinished start (a row of `message_starts`): the fifth death in a row
//! dead-letters a message, whatever the cause. So a fault interrupts at most one start of each message.

mod faults;
mod fleet;
mod plan;

use std::time::Duration;

use anyhow::Context as _;

use crate::{
    arguments::Size,
    check_report::CheckReport,
    cluster::Cluster,
    command::{Command, Effect},
    command_load::CommandLoad,
    output::print_line,
    program::Program,
    random::Random,
    scenarios::QUEUES_ON_DISK_AFTER,
    test_system::TestSystem,
    wait::wait_until_equal,
};
use faults::SoakRun;
pub(crate) use fleet::Fleet;
use plan::{describe, plan};

pub(crate) const INJECTED: &str = "random kills, crashes and cuts under load, from a seed";

/// Time limit for work in flight after any fault.
const DRAIN_TIMEOUT: Duration = Duration::from_mins(2);
/// Progress is printed after this many faults.
const PROGRESS_INTERVAL: usize = 50;
/// Kills that interrupted no work are repeated in additional rounds, up to this number.
const MAX_EXTRA_ROUNDS: usize = 3;
/// How many old commands are sent again at a time.
const CHUNK: usize = 1000;

/// Runs rounds of the plan until all kills have interrupted work, or the time has passed. At the end old commands are
/// sent again.
pub(crate) async fn soak(cluster: &Cluster, size: Size) -> anyhow::Result<CheckReport> {
    print_line(&format!(
        "soak: SEED={} COMMANDS={} KILLS={} and {} crashes of PostgreSQL, {} of RabbitMQ",
        size.seed, size.commands, size.kills, size.database_crashes, size.broker_crashes
    ));
    let system = TestSystem::new(cluster, "soak").await?;
    let fleet = Fleet::start(&system, &[]).await?;
    tokio::time::sleep(QUEUES_ON_DISK_AFTER.saturating_sub(system.started_at.elapsed())).await; // see the constant
    let mut run =
        SoakRun { system: &system, fleet, load: CommandLoad::seeded(size.seed), kills: 0, probes: 0 };
    let mut result = run_rounds(&mut run, size).await;
    let SoakRun { fleet, mut load, kills, .. } = run;
    let (mut programs, _proxies) = fleet.into_programs();
    if result.is_ok() {
        result = resend_superseded(&system, &mut load, &mut programs).await.context("resending old commands");
    }
    if let Err(error) = result {
        system.violations.borrow_mut().push(format!("{error:#}"));
    }
    if size.duration.is_none() {
        system.expect("kills that interrupted work", &(kills >= size.kills), &true);
    }
    system.expect("failed attempts", &system.failed_attempts().await?, &0);
    let mut report = system.finish(programs).await?;
    report.injected = format!("{INJECTED} {}", size.seed);
    Ok(report)
}

async fn run_rounds(run: &mut SoakRun<'_, '_>, size: Size) -> anyhow::Result<()> {
    let mut random = Random::seeded(size.seed);
    let mut round = size;
    for extra_rounds in 0.. {
        let steps = plan(round, &mut random);
        print_line(&format!("plan: {}", describe(&steps)));
        for (number, step) in steps.into_iter().enumerate() {
            if number % PROGRESS_INTERVAL == PROGRESS_INTERVAL - 1 {
                print_line(&progress_text(run));
            }
            run.run_step(step).await.with_context(|| format!("{:?}", step.fault))?;
        }
        let missing = size.kills.saturating_sub(run.kills);
        match size.duration {
            Some(duration) if run.system.started_at.elapsed() < duration => print_line(&progress_text(run)),
            None if missing > 0 && extra_rounds < MAX_EXTRA_ROUNDS => {
                // A kill without commands would interrupt no work.
                let commands = (size.commands * missing / size.kills.max(1)).max(missing);
                round = Size { kills: missing, commands, database_crashes: 0, broker_crashes: 0, ..size };
            }
            _ => break,
        }
    }
    Ok(())
}

/// Deallocates every line, and then sends all old lines and quantity changes again: without the inbox they would take
/// effect again.
async fn resend_superseded(
    system: &TestSystem<'_>,
    load: &mut CommandLoad,
    programs: &mut Vec<Program>,
) -> anyhow::Result<()> {
    load.mark_handled();
    for portion in load.deallocate_all().chunks(CHUNK) {
        system.send(portion).await?;
        wait_until_done(system).await?;
    }
    system.stop(vec![programs.remove(0)]).await; // a single worker handles everything in order
    let is_repeatable =
        |old: &Command| matches!(old.effect, Effect::Line { .. } | Effect::QuantityChange { .. });
    let old: Vec<_> = system.command_source.attempted().into_iter().filter(is_repeatable).collect();
    for (number, portion) in old.chunks(CHUNK).enumerate() {
        system.resend_old(portion, number, DRAIN_TIMEOUT).await?;
        wait_until_done(system).await?;
    }
    Ok(())
}

fn progress_text(run: &SoakRun<'_, '_>) -> String {
    let (commands, elapsed) = (run.system.command_source.attempt_count(), run.system.started_at.elapsed());
    format!("{} kills, {commands} commands in {} s", run.kills, elapsed.as_secs())
}

/// Waits until everything that was sent is handled, and no start is unfinished.
async fn wait_until_done(system: &TestSystem<'_>) -> anyhow::Result<()> {
    system.wait_all_handled(DRAIN_TIMEOUT).await?;
    let unfinished_starts = async || system.count("select count(*) from message_starts").await;
    wait_until_equal("unfinished starts", DRAIN_TIMEOUT, &0, unfinished_starts).await.map(drop)
}

//! The memory of a process that handles large messages.

use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::Value;
use sqlx::Connection as _;

use crate::{
    commands::{Command, allocate, create_batch, sku},
    process::Running,
    servers::{BenchServers, STOCKED},
    system::BenchSystem,
};

/// The number of large commands of each type.
const COMMANDS: u32 = 1500;
/// The size of a large body in bytes: just below the default of `limits.body_bytes`.
const LARGE: usize = 261_000;
/// The number of messages above that limit, and their size.
const HUGE: (u32, usize) = (50, 8 << 20);
const TIMEOUT: Duration = Duration::from_mins(5);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The peak memory of a process in MiB, after each phase.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeakMemory {
    /// After large commands.
    pub(crate) commands: f64,
    /// After large commands that fail.
    pub(crate) dead_letters: f64,
    /// After a retry of all dead letters.
    pub(crate) retries: f64,
    /// Of another process, after messages that are too large.
    pub(crate) too_large: f64,
}

/// Handles large commands, dead-letters and retries as many, and dead-letters some that are much too large.
pub(crate) async fn peak_memory(servers: &BenchServers) -> anyhow::Result<PeakMemory> {
    let system = BenchSystem::with_copy_of(servers, STOCKED).await?;
    let sender = system.sender().await?;
    let batches = (0..COMMANDS).map(|n| padded(create_batch(&format!("large-{n}"), &sku(1), 1), LARGE));
    sender.send_all(batches).await?;
    sender.send_all((0..COMMANDS).map(|n| padded(allocate(n, &sku(1)), LARGE))).await?;
    let mut running = system.run(&[("ALLOCATION__RETRY__MAX_ATTEMPTS", "1")])?;
    let handled =
        "select count(*) from inbox where message_id like 'allocate%' or message_id like 'create large%'";
    wait_for(&system, handled, 2 * COMMANDS, &mut running).await?;
    let commands = running.peak_mebibytes()?;

    sender.send_all((0..COMMANDS).map(|n| padded(allocate(COMMANDS + n, "NEW-SKU"), LARGE))).await?;
    wait_for(&system, DEAD, COMMANDS, &mut running).await?;
    let dead_letters = running.peak_mebibytes()?;

    sender.send_all([create_batch("new", "NEW-SKU", COMMANDS)].into_iter()).await?;
    system.call_with(&["dead-letters", "retry", "--all"]).await?;
    wait_for(&system, handled, 3 * COMMANDS, &mut running).await?;
    let retries = running.peak_mebibytes()?;
    running.stop().await?;

    for n in 0..HUGE.0 {
        sender.send_all([padded(allocate(3 * COMMANDS + n, &sku(1)), HUGE.1)].into_iter()).await?;
    }
    let mut running = system.run(&[])?;
    wait_for(&system, DEAD, HUGE.0, &mut running).await?;
    let too_large = running.peak_mebibytes()?;
    running.stop().await?;
    system.close().await?;
    Ok(PeakMemory { commands, dead_letters, retries, too_large })
}

const DEAD: &str = "select count(*) from failed_messages where status = 'dead'";

/// The command with more bytes in its body, in a field that is ignored.
fn padded(mut command: Command, bytes: usize) -> Command {
    command.body["padding"] = Value::String("x".repeat(bytes));
    command
}

async fn wait_for(
    system: &BenchSystem<'_>,
    query: &str,
    expected: u32,
    running: &mut Running,
) -> anyhow::Result<()> {
    let (mut session, begin) = (system.session().await?, Instant::now());
    loop {
        let count: i64 = sqlx::query_scalar(query).fetch_one(&mut session).await?;
        if count >= i64::from(expected) {
            return Ok(session.close().await?);
        }
        running.ensure_alive()?;
        ensure!(begin.elapsed() < TIMEOUT, "{count} of {expected} messages after {TIMEOUT:?}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

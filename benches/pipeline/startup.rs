//! The start-up time and the size of the program.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::{
    commands::SkuDistribution,
    figures::middle,
    servers::{BenchServers, STOCKED},
    system::{BenchSystem, PROGRAM},
};

/// Calls of `--version`: one of them is too short to be measured.
const STARTS: usize = 21;

/// The start-up of the program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Startup {
    /// The duration of `allocation --version`.
    pub(crate) version: Duration,
    /// From the start to the event of a command that was in the queue.
    pub(crate) first_event: Duration,
    /// The size of its file.
    pub(crate) mebibytes: f64,
}

/// Starts the program for its version, and as a worker.
pub(crate) async fn startup(servers: &BenchServers) -> anyhow::Result<Startup> {
    let system = BenchSystem::with_copy_of(servers, STOCKED).await?;
    let mut versions = Vec::with_capacity(STARTS);
    for _ in 0..STARTS {
        let begin = Instant::now();
        system.call("--version").await?;
        versions.push(begin.elapsed());
    }
    let first_event = first_event(&system).await?;
    system.close().await?;
    let kibibytes = u32::try_from(fs::metadata(PROGRAM)?.len() / 1024)?;
    Ok(Startup { version: middle(versions), first_event, mebibytes: f64::from(kibibytes) / 1024.0 })
}

async fn first_event(system: &BenchSystem<'_>) -> anyhow::Result<Duration> {
    let observer = system.observer().await?;
    system.sender().await?.send_all(SkuDistribution::Even.commands(0, 1)).await?;
    let mut running = system.run(&[])?;
    let arrived = observer.wait_for(1, &mut running).await?;
    let took = arrived - running.begin;
    running.stop().await?;
    Ok(took)
}

//! Commands per second: a program is started that empties a full queue.

use crate::{commands::SkuDistribution, process::Running, servers::BenchServers, system::BenchSystem};

/// The costs and the speed of the program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Throughput {
    /// From the start of the program to the arrival of the last event.
    pub(crate) commands_per_second: f64,
    pub(crate) cpu_seconds_per_thousand: f64,
    pub(crate) peak_mebibytes: f64,
}

/// Measures a program with these settings on a system of its own.
pub(crate) async fn throughput(
    servers: &BenchServers,
    template: &str,
    (skus, commands): (SkuDistribution, u32),
    settings: &[(&str, &str)],
) -> anyhow::Result<Throughput> {
    let system = BenchSystem::with_copy_of(servers, template).await?;
    let (throughput, running) = drain(&system, (skus, commands), settings).await?;
    running.stop().await?;
    system.close().await?;
    Ok(throughput)
}

/// Fills the queue, then starts the program; it is idle afterwards.
pub(crate) async fn drain(
    system: &BenchSystem<'_>,
    (skus, commands): (SkuDistribution, u32),
    settings: &[(&str, &str)],
) -> anyhow::Result<(Throughput, Running)> {
    let observer = system.observer().await?;
    system.sender().await?.send_all(skus.commands(0, commands)).await?;
    let mut running = system.run(settings)?;
    let end = observer.wait_for(commands, &mut running).await?;
    let (count, cpu_seconds) = (f64::from(commands), running.cpu_seconds()?);
    let throughput = Throughput {
        commands_per_second: count / (end - running.begin).as_secs_f64(),
        cpu_seconds_per_thousand: cpu_seconds / count * 1000.0,
        peak_mebibytes: running.peak_mebibytes()?,
    };
    Ok((throughput, running))
}

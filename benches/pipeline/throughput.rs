//! Commands a second: a full queue, and a program that is started to empty it.

use crate::{commands::Spread, lab::Lab, process::Running, world::World};

/// How the program got on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Throughput {
    /// From its start to the arrival of the last event.
    pub(crate) commands_per_second: f64,
    pub(crate) cpu_seconds_per_thousand: f64,
    pub(crate) peak_mebibytes: f64,
}

/// Has a world of its own emptied by a program with these settings.
pub(crate) async fn throughput(
    lab: &Lab,
    template: &str,
    (spread, commands): (Spread, u32),
    settings: &[(&str, &str)],
) -> anyhow::Result<Throughput> {
    let world = lab.world(template).await?;
    let (throughput, running) = drain(&world, (spread, commands), settings).await?;
    running.stop().await?;
    world.close().await?;
    Ok(throughput)
}

/// Fills the queue, then starts the program; it is idle afterwards.
pub(crate) async fn drain(
    world: &World<'_>,
    (spread, commands): (Spread, u32),
    settings: &[(&str, &str)],
) -> anyhow::Result<(Throughput, Running)> {
    let observer = world.observer().await?;
    world.sender().await?.send_all(spread.commands(0, commands)).await?;
    let mut running = world.run(settings)?;
    let end = observer.wait_for(commands, &mut running).await?;
    let (count, cpu_seconds) = (f64::from(commands), running.cpu_seconds()?);
    let throughput = Throughput {
        commands_per_second: count / (end - running.begin).as_secs_f64(),
        cpu_seconds_per_thousand: cpu_seconds / count * 1000.0,
        peak_mebibytes: running.peak_mebibytes()?,
    };
    Ok((throughput, running))
}

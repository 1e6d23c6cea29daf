//! How soon a program is there, and how large it is.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::{
    commands::Spread,
    figures::middle,
    lab::{Lab, STOCKED},
    world::{PROGRAM, World},
};

/// How often it is asked for its version: it takes so little time that one answer says nothing.
const STARTS: usize = 21;

/// What was seen of a program that starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Startup {
    /// Until it has said its version and ended.
    pub(crate) version: Duration,
    /// Until the event of a command that waited for it is there.
    pub(crate) first_event: Duration,
    /// Its file.
    pub(crate) mebibytes: f64,
}

/// Starts the program, for a word and for work.
pub(crate) async fn startup(lab: &Lab) -> anyhow::Result<Startup> {
    let world = lab.world(STOCKED).await?;
    let mut versions = Vec::with_capacity(STARTS);
    for _ in 0..STARTS {
        let begin = Instant::now();
        world.call("--version").await?;
        versions.push(begin.elapsed());
    }
    let first_event = first_event(&world).await?;
    world.close().await?;
    let kibibytes = u32::try_from(fs::metadata(PROGRAM)?.len() / 1024)?;
    Ok(Startup { version: middle(versions), first_event, mebibytes: f64::from(kibibytes) / 1024.0 })
}

async fn first_event(world: &World<'_>) -> anyhow::Result<Duration> {
    let observer = world.observer().await?;
    world.sender().await?.send_all(Spread::Even.commands(0, 1)).await?;
    let mut running = world.run(&[])?;
    let arrived = observer.wait_for(1, &mut running).await?;
    let took = arrived - running.begin;
    running.stop().await?;
    Ok(took)
}

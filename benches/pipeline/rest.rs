//! At rest: what a program costs that has nothing to do.

use std::time::Duration;

use crate::{
    commands::Spread,
    lab::{Lab, STOCKED},
    world::World,
};

/// What goes on after the last command has time to end.
const SETTLING: Duration = Duration::from_secs(3);
const WATCHED: Duration = Duration::from_secs(10);

/// What was seen of an idle process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rest {
    pub(crate) percent_of_a_core: f64,
    pub(crate) queries_per_second: f64,
}

/// Watches a program that has handled a command and waits for the next.
pub(crate) async fn rest(lab: &Lab) -> anyhow::Result<Rest> {
    let world = lab.world(STOCKED).await?;
    let observer = world.observer().await?;
    let mut running = world.run(&[])?;
    world.sender().await?.send_all(Spread::Even.commands(0, 1)).await?;
    observer.wait_for(1, &mut running).await?;
    tokio::time::sleep(SETTLING).await;
    let (cpu_seconds, queries) = (running.cpu_seconds()?, queries(&world).await?);
    tokio::time::sleep(WATCHED).await;
    let (cpu_seconds, queries) =
        (running.cpu_seconds()? - cpu_seconds, self::queries(&world).await? - queries);
    running.stop().await?;
    world.close().await?;
    let seconds = WATCHED.as_secs_f64();
    Ok(Rest {
        percent_of_a_core: cpu_seconds / seconds * 100.0,
        queries_per_second: f64::from(u32::try_from(queries)?) / seconds,
    })
}

/// Statements, if the server counts them; else transactions, for at rest each statement is one. Those of autovacuum are
/// among them.
async fn queries(world: &World<'_>) -> anyhow::Result<i64> {
    let (lab, database) = (world.lab(), world.database());
    match lab.statements(database).await {
        Some(statements) => Ok(statements),
        None => lab.transactions(database).await,
    }
}

//! The costs of an idle program.

use std::time::Duration;

use crate::{
    commands::SkuDistribution,
    servers::{BenchServers, STOCKED},
    system::BenchSystem,
};

/// Time for the work that follows the last command.
const SETTLE_TIME: Duration = Duration::from_secs(3);
const OBSERVED: Duration = Duration::from_secs(10);

/// The costs of an idle process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IdleCost {
    pub(crate) percent_of_a_core: f64,
    pub(crate) queries_per_second: f64,
}

/// Observes a program that has handled one command and waits for the next.
pub(crate) async fn idle_cost(servers: &BenchServers) -> anyhow::Result<IdleCost> {
    let system = BenchSystem::with_copy_of(servers, STOCKED).await?;
    let observer = system.observer().await?;
    let mut running = system.run(&[])?;
    system.sender().await?.send_all(SkuDistribution::Even.commands(0, 1)).await?;
    observer.wait_for(1, &mut running).await?;
    tokio::time::sleep(SETTLE_TIME).await;
    let (cpu_seconds, queries) = (running.cpu_seconds()?, queries(&system).await?);
    tokio::time::sleep(OBSERVED).await;
    let (cpu_seconds, queries) =
        (running.cpu_seconds()? - cpu_seconds, self::queries(&system).await? - queries);
    running.stop().await?;
    system.close().await?;
    let seconds = OBSERVED.as_secs_f64();
    Ok(IdleCost {
        percent_of_a_core: cpu_seconds / seconds * 100.0,
        queries_per_second: f64::from(u32::try_from(queries)?) / seconds,
    })
}

/// Statements, if the server counts them; otherwise transactions, since each statement of an idle program is one. They include
/// those of autovacuum.
async fn queries(system: &BenchSystem<'_>) -> anyhow::Result<i64> {
    let (servers, database) = (system.servers(), system.database());
    match servers.statements(database).await {
        Some(statements) => Ok(statements),
        None => servers.transactions(database).await,
    }
}

//! Creates the databases that the measurements copy.

use sqlx::postgres::PgPoolOptions;

use crate::{
    commands,
    dataset::Dataset,
    measurement::Measurement,
    progress::log,
    servers::{BenchServers, STOCKED},
    system::BenchSystem,
};

pub(crate) async fn prepare(servers: &BenchServers, measurements: &[Measurement]) -> anyhow::Result<()> {
    log("preparing: a database with a batch of each SKU");
    stock(servers).await?;
    for dataset in measurements.iter().filter_map(|measurement| measurement.dataset()) {
        log(&format!("preparing: a database with {}", dataset.name()));
        fill(servers, dataset).await?;
    }
    Ok(())
}

/// The worker itself creates the batches, so that every row is as it writes it.
async fn stock(servers: &BenchServers) -> anyhow::Result<()> {
    let system = BenchSystem::on(servers, STOCKED.into()).await?;
    system.call("migrate").await?;
    system.call("topology").await?;
    let running = system.run(&[])?;
    system.sender().await?.send_all(commands::batches()).await?;
    system.wait_for_products(commands::SKUS).await?;
    running.stop().await?;
    system.remove_namespace().await
}

async fn fill(servers: &BenchServers, dataset: Dataset) -> anyhow::Result<()> {
    servers.copy(STOCKED, dataset.template()).await?;
    let url = servers.url(dataset.template());
    let pool = PgPoolOptions::new().max_connections(1).connect(url.as_str()).await?;
    dataset.fill(&pool).await?;
    pool.close().await;
    Ok(())
}

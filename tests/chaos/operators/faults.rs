//! Injects one fault at a time during the work of two workers and two relays.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::future::join_all;

use super::plan::Fault;
use crate::{cluster::PROCESS_ROLES, soak::Fleet, switches, test_system::TestSystem, wait::wait_until_equal};

/// The maximum delay of a commit during [`Fault::SlowCommits`].
const COMMIT_DELAY: Duration = Duration::from_millis(300);

/// Injects a fault and ends it: afterwards all servers are available and all processes run.
pub(super) async fn inject(fleet: &mut Fleet, system: &TestSystem<'_>, fault: Fault) -> anyhow::Result<()> {
    match fault {
        Fault::None => {}
        Fault::Kill(index) => kill(fleet, system, index).await?,
        Fault::Stop(index) => stop(fleet, system, &[index]).await?,
        Fault::StopWorkers => stop(fleet, system, &[0, 1]).await?,
        Fault::Database(duration) => {
            fleet.refuse_database_connections(true);
            fleet.cut_database_connections();
            pause(duration).await;
            fleet.refuse_database_connections(false);
        }
        Fault::Broker(duration) => {
            fleet.broker.refuse_connections(true);
            fleet.broker.cut();
            pause(duration).await;
            fleet.broker.refuse_connections(false);
        }
        Fault::DiskFull(duration) => {
            switches::set_disk_full(system, true).await?;
            pause(duration).await;
            switches::set_disk_full(system, false).await?;
        }
        Fault::SlowCommits(duration) => {
            switches::set_commit_delay(system, COMMIT_DELAY).await?;
            pause(duration).await;
            switches::set_commit_delay(system, Duration::ZERO).await?;
        }
    }
    ensure!(fleet.alive_count() == PROCESS_ROLES.len(), "a process ended unexpectedly: {:?}", fleet.tails());
    Ok(())
}

/// The duration of the fault; not a wait for a condition.
async fn pause(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// SIGKILL, but not while a message has an unfinished start of another process: the fifth death in a row dead-letters
/// a message, whatever the cause.
async fn kill(fleet: &mut Fleet, system: &TestSystem<'_>, index: usize) -> anyhow::Result<()> {
    let starts = async || system.count("select count(*) from message_starts").await;
    system.note_timeout(wait_until_equal("unfinished starts", system.timeout(), &0, starts).await)?;
    let in_flight = in_flight(system, index).await?;
    fleet.take(index)?.kill().await?;
    if in_flight {
        system.add_evidence("killed in a transaction".into());
    }
    fleet.restart(system, index)
}

/// SIGTERM; each process ends successfully and is replaced.
async fn stop(fleet: &mut Fleet, system: &TestSystem<'_>, indexes: &[usize]) -> anyhow::Result<()> {
    let mut stopped = Vec::new();
    for index in indexes {
        if in_flight(system, *index).await? {
            system.add_evidence("stopped in a transaction".into());
        }
        stopped.push(fleet.take(*index)?.terminate());
    }
    for status in join_all(stopped).await {
        let status = status.context("SIGTERM")?;
        system.expect("a stopped process ended successfully", &status.success(), &true);
    }
    indexes.iter().try_for_each(|index| fleet.restart(system, *index))
}

/// Whether a process is in a transaction.
async fn in_flight(system: &TestSystem<'_>, index: usize) -> anyhow::Result<bool> {
    Ok(sqlx::query_scalar(
        "select exists (select from pg_stat_activity
                        where datname = current_database() and usename::text = $1 and xact_start is not null)",
    )
    .bind(PROCESS_ROLES[index])
    .fetch_one(&system.pool)
    .await?)
}

//! One fault at a time in the middle of the work of two workers and two relays.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::future::join_all;

use super::plan::Fault;
use crate::{lab::NAMED, soak::Fleet, switches, wait::until_is, world::World};

/// How long a commit takes at most while commits are late.
const COMMIT_TAKES: Duration = Duration::from_millis(300);

/// Plays a fault to its end: afterwards all servers are there and all processes run.
pub(super) async fn strike(fleet: &mut Fleet, world: &World<'_>, fault: Fault) -> anyhow::Result<()> {
    match fault {
        Fault::None => {}
        Fault::Kill(place) => kill(fleet, world, place).await?,
        Fault::Stop(place) => stop(fleet, world, &[place]).await?,
        Fault::StopWorkers => stop(fleet, world, &[0, 1]).await?,
        Fault::Database(lasts) => {
            fleet.refuse_database(true);
            fleet.cut_database();
            pause(lasts).await;
            fleet.refuse_database(false);
        }
        Fault::Broker(lasts) => {
            fleet.broker.refuse(true);
            fleet.broker.cut();
            pause(lasts).await;
            fleet.broker.refuse(false);
        }
        Fault::DiskFull(lasts) => {
            switches::disk_full(world, true).await?;
            pause(lasts).await;
            switches::disk_full(world, false).await?;
        }
        Fault::LateCommits(lasts) => {
            switches::commit_takes(world, COMMIT_TAKES).await?;
            pause(lasts).await;
            switches::commit_takes(world, Duration::ZERO).await?;
        }
    }
    ensure!(fleet.survivors() == NAMED.len(), "a process ended by itself: {:?}", fleet.tails());
    Ok(())
}

/// The fault takes so long; nothing is waited for.
async fn pause(lasts: Duration) {
    tokio::time::sleep(lasts).await;
}

/// SIGKILL, but not while a message is started that another process has not ended: what is killed five times in a row
/// is dead, guilty or not.
async fn kill(fleet: &mut Fleet, world: &World<'_>, place: usize) -> anyhow::Result<()> {
    let starts = async || world.count("select count(*) from message_starts").await;
    world.in_time(until_is("no start is without an end", world.patience(), &0, starts).await)?;
    let in_flight = in_flight(world, place).await?;
    fleet.take(place)?.kill().await?;
    if in_flight {
        world.hit("killed in a transaction".into());
    }
    fleet.restart(world, place)
}

/// SIGTERM; each ends well and is replaced.
async fn stop(fleet: &mut Fleet, world: &World<'_>, places: &[usize]) -> anyhow::Result<()> {
    let mut stopped = Vec::new();
    for place in places {
        if in_flight(world, *place).await? {
            world.hit("stopped in a transaction".into());
        }
        stopped.push(fleet.take(*place)?.terminate());
    }
    for ended in join_all(stopped).await {
        let ended = ended.context("SIGTERM")?;
        world.expect("a process that was to stop ended well", &ended.success(), &true);
    }
    places.iter().try_for_each(|place| fleet.restart(world, *place))
}

/// Whether the process of a place is in a transaction.
async fn in_flight(world: &World<'_>, place: usize) -> anyhow::Result<bool> {
    Ok(sqlx::query_scalar(
        "select exists (select from pg_stat_activity
                        where datname = current_database() and usename::text = $1 and xact_start is not null)",
    )
    .bind(NAMED[place])
    .fetch_one(&world.pool)
    .await?)
}

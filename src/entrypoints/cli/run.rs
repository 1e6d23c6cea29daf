//! `allocation run`: plays roles until it is told to stop.

use std::process;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::bootstrap::{App, Role};

use super::Done;

/// What shells report of a process that a second SIGINT ended.
const ENDED_AT_ONCE: i32 = 130;

pub(super) async fn run(app: &App, mut roles: Vec<Role>) -> anyhow::Result<Done> {
    roles.sort_unstable();
    roles.dedup();
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let told = stop.clone();
    tokio::spawn(async move {
        either(&mut terminate, &mut interrupt).await;
        info!("finishing what is in hand; a second signal ends at once");
        told.cancel();
        either(&mut terminate, &mut interrupt).await;
        warn!("ended at once; what was in hand will be redelivered");
        process::exit(ENDED_AT_ONCE);
    });
    app.run(&roles, &stop).await.map(|()| Done::All)
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}

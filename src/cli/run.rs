//! `allocation run`: runs roles until a signal stops it.

use std::process;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::bootstrap::{App, Role};

use super::exit::ExitStatus;

/// The exit status that shells report for a process terminated by SIGINT.
const INTERRUPTED: i32 = 130;

pub(super) async fn run(app: &App, mut roles: Vec<Role>) -> anyhow::Result<ExitStatus> {
    roles.sort_unstable();
    roles.dedup();
    let stop = CancellationToken::new();
    let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(stop_on_signal(stop.clone(), terminate, interrupt));
    app.run(&roles, &stop).await.map(|()| ExitStatus::Success)
}

/// The first signal stops the roles, the second one terminates the process.
async fn stop_on_signal(stop: CancellationToken, mut terminate: Signal, mut interrupt: Signal) {
    either(&mut terminate, &mut interrupt).await;
    info!("shutting down; send the signal again to exit immediately");
    stop.cancel();
    either(&mut terminate, &mut interrupt).await;
    warn!("exiting immediately; unacknowledged messages will be redelivered");
    process::exit(INTERRUPTED);
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}

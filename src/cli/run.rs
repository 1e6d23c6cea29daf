//! `allocation run`: runs roles until a signal stops it.

use std::{fs, process};

use futures_util::future::select_all;
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
    let mut signals = vec![signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    if !is_hangup_ignored() {
        signals.push(signal(SignalKind::hangup())?);
    }
    tokio::spawn(stop_on_signal(stop.clone(), signals));
    app.run(&roles, &stop).await.map(|()| ExitStatus::Success)
}

/// Whether the process was started to outlive its terminal, for example by `nohup`.
fn is_hangup_ignored() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    mask & (1 << (SignalKind::hangup().as_raw_value() - 1)) != 0
}

/// The first signal stops the roles, the second one terminates the process.
async fn stop_on_signal(stop: CancellationToken, mut signals: Vec<Signal>) {
    any(&mut signals).await;
    info!("shutting down; send the signal again to exit immediately");
    stop.cancel();
    any(&mut signals).await;
    warn!("exiting immediately; unacknowledged messages will be redelivered");
    process::exit(INTERRUPTED);
}

async fn any(signals: &mut [Signal]) {
    let received = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
    select_all(received).await;
}

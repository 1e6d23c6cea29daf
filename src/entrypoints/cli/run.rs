//! `allocation run`: plays roles until it is told to stop.

use std::{os::unix::process::CommandExt as _, process};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::bootstrap::{App, Role};

use super::Done;

/// What shells report of a process that a second SIGINT ended.
const ENDED_AT_ONCE: i32 = 130;

/// Stack of every thread. The broker's client reads nested headers by recursion, on a thread of its own, and a frame of
/// 128 KiB can nest 26,000 levels; they need less than 64 MiB. Only what is used is ever taken from the machine.
const STACK_BYTES: &str = "134217728";
/// Where Rust's threads look for it, once, before the first is made.
const STACK_VARIABLE: &str = "RUST_MIN_STACK";

/// Begins this process anew with deep stacks, unless somebody has chosen a size: a message must not be able to overflow
/// them. To be called before any thread is made.
pub(super) fn with_deep_stacks() {
    if std::env::var_os(STACK_VARIABLE).is_some() {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        let arguments = std::env::args_os().skip(1);
        // Returns only if it failed; then the stacks are as they are.
        let _ = process::Command::new(program).args(arguments).env(STACK_VARIABLE, STACK_BYTES).exec();
    }
}

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

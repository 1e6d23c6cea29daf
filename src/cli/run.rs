//! `allocation run`: plays roles until it is told to stop.

use std::{env, os::unix::process::CommandExt as _, process};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::bootstrap::{App, Role};

use super::ExitStatus;

/// What shells report of a process that a second SIGINT ended.
const ENDED_AT_ONCE: i32 = 130;

/// Stack of every thread. The broker's client reads nested headers by recursion, on a thread of its own, and a frame of
/// 128 KiB can nest 26,000 levels; they need less than 64 MiB. Only what is used is ever taken from the machine.
const STACK_BYTES: &str = "134217728";
/// Where Rust's threads look for it, once, before the first is made.
const STACK_VARIABLE: &str = "RUST_MIN_STACK";

/// Keeps the address space of ended threads. The C library would give it back at once, for it keeps 40 MiB of stacks; and
/// whoever lets go of a thread just then, as the client does with every connection, reads from where it was: glibc's
/// `pthread_detach` looks at the thread once more after it is free to go. Seen once, as a SIGSEGV at a stop.
const KEPT_STACKS: &str = "glibc.pthread.stack_cache_size=17179869184";
/// Where glibc looks for it, before the program begins.
const TUNABLES_VARIABLE: &str = "GLIBC_TUNABLES";

/// Begins this process anew with deep stacks, or as deep as somebody has chosen, that are kept: a message must not be able
/// to overflow them, and a connection that ends must not end the process. To be called before any thread is made.
pub(super) fn reexec_with_large_stacks() {
    let stack = env::var_os(STACK_VARIABLE);
    let tunables = env::var(TUNABLES_VARIABLE).unwrap_or_default();
    if stack.is_some() && tunables.contains(KEPT_STACKS) {
        return;
    }
    let tunables = if tunables.is_empty() { KEPT_STACKS.into() } else { format!("{tunables}:{KEPT_STACKS}") };
    if let Ok(program) = env::current_exe() {
        let mut anew = process::Command::new(program);
        anew.args(env::args_os().skip(1))
            .env(STACK_VARIABLE, stack.unwrap_or_else(|| STACK_BYTES.into()))
            .env(TUNABLES_VARIABLE, tunables);
        let _ = anew.exec(); // Returns only if it failed; then the stacks are as they are.
    }
}

pub(super) async fn run(app: &App, mut roles: Vec<Role>) -> anyhow::Result<ExitStatus> {
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
    app.run(&roles, &stop).await.map(|()| ExitStatus::Success)
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}

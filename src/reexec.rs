//! Replaces the process with itself under other settings of its threads, which the environment can only set before the
//! program starts.

use std::{env, os::unix::process::CommandExt as _, process::Command};

/// The stack of every thread. The client of the broker parses nested headers recursively, on a thread of its own. A frame
/// of 128 KiB can nest 26,000 levels, which need less than 64 MiB. Only the pages in use occupy memory.
const STACK_BYTES: &str = "134217728";
/// Read by the Rust standard library once, before it starts the first thread.
const STACK_VARIABLE: &str = "RUST_MIN_STACK";

/// Keeps the stacks of terminated threads mapped. By default glibc caches 40 MiB of them and unmaps the rest, and its
/// `pthread_detach` reads the thread's memory after the thread may have exited: with large stacks this is a SIGSEGV,
/// observed once at a shutdown, since the client of the broker detaches a thread with every connection that it closes.
const STACK_CACHE: &str = "glibc.pthread.stack_cache_size=17179869184";
/// Read by glibc before `main`.
const TUNABLES_VARIABLE: &str = "GLIBC_TUNABLES";

/// Executes this program again with large cached thread stacks, unless it runs with them already. A stack size that the
/// environment sets is kept. If the execution fails, the stacks stay as they are.
///
/// To be called before any thread is started.
pub(crate) fn reexec_with_large_stacks() {
    let stack = env::var_os(STACK_VARIABLE);
    let tunables = env::var(TUNABLES_VARIABLE).unwrap_or_default();
    if stack.is_some() && tunables.contains(STACK_CACHE) {
        return;
    }
    let tunables = if tunables.is_empty() { STACK_CACHE.into() } else { format!("{tunables}:{STACK_CACHE}") };
    if let Ok(program) = env::current_exe() {
        let mut command = Command::new(program);
        command
            .args(env::args_os().skip(1))
            .env(STACK_VARIABLE, stack.unwrap_or_else(|| STACK_BYTES.into()))
            .env(TUNABLES_VARIABLE, tunables);
        let _ = command.exec(); // Returns only on failure.
    }
}

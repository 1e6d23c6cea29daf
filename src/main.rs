//! The `allocation` program; see the library's front page for how it is built.

use std::process::ExitCode;

use allocation::cli::Cli;
use clap::Parser as _;
use mimalloc::MiMalloc;

/// Faster than the allocator of the system: a command needs hundreds of small allocations, in turn in several threads.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    Cli::parse().execute()
}

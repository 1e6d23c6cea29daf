//! The `allocation` program; see the library's front page for how it is built.

use std::process::ExitCode;

use allocation::cli::Cli;
use clap::Parser as _;

fn main() -> ExitCode {
    Cli::parse().execute()
}

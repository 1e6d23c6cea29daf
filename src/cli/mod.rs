//! The command line: one file per subcommand. Results go to standard output as text or JSON, everything else to standard
//! error.

mod admin;
mod arguments;
#[expect(clippy::module_inception, reason = "the main file of this folder")]
mod cli;
mod csv;
mod dead_letters;
mod demo;
mod doctor;
mod exit;
mod health;
mod orders;
mod outbox;
mod output;
mod run;
mod send;
mod shell;
mod status;
mod trace;
mod view;
mod why;

pub use cli::Cli;

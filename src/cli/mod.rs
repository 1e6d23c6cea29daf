//! The command line: one file per subcommand, JSON or words on standard output, everything else on standard error.

mod admin;
mod csv;
mod dead_letters;
mod demo;
mod orders;
mod outbox;
mod output;
mod run;
mod send;
mod status;
mod view;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{
    bootstrap::{App, Role},
    config::Settings,
    telemetry,
};

/// Allocates order lines to batches of stock: commands in from RabbitMQ, one Postgres transaction, events out.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
#[command(
    after_help = "Settings: config/default.toml lists every key. A file given by --config overrides it, then \
    DATABASE_URL and AMQP_URL, then variables like ALLOCATION__WORKER__MAX_BATCH. `allocation config` shows the result.\n\
    Exit status: 0 done, 1 failed or not all done, 2 wrong use."
)]
pub struct Cli {
    /// A TOML file of settings that differ from the defaults.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON on standard output.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Work until SIGTERM or Ctrl-C; a second one ends at once.
    Run {
        /// Play only these roles.
        #[arg(
            long,
            value_name = "ROLE",
            value_delimiter = ',',
            default_value = "worker,relay,archive,notifier,api"
        )]
        only: Vec<Role>,
    },
    /// Enqueue commands, as an upstream system does.
    Send(send::Send),
    /// Show queues, outbox, failures and schema, and whether the servers answer.
    Status,
    /// Look at commands that failed, and bring them back.
    DeadLetters(dead_letters::DeadLetters),
    /// Look at events that are not published yet, and try those again that were set aside.
    Outbox(outbox::Outbox),
    /// Look at an order.
    Orders(orders::Orders),
    /// Look after the read model.
    View(view::View),
    /// Allocate the orders in a folder's files, without servers.
    Csv(csv::Csv),
    /// Play the example day in memory, without servers. Nothing of it is kept.
    Demo,
    /// Create the database if it is missing, and bring its schema up to date.
    Migrate,
    /// Declare exchanges and queues, and say what exists with other arguments.
    Topology,
    /// Print the effective settings, without secrets.
    Config,
}

/// Whether all that was asked for was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExitStatus {
    Success,
    Incomplete,
    /// What was asked for makes no sense.
    UsageError,
}

impl Cli {
    /// Does what was asked for.
    #[must_use]
    pub fn execute(self) -> ExitCode {
        match self.try_execute() {
            Ok(ExitStatus::Success) => ExitCode::SUCCESS,
            Ok(ExitStatus::Incomplete) => ExitCode::FAILURE,
            Ok(ExitStatus::UsageError) => ExitCode::from(2),
            Err(error) => {
                output::error(&format!("{error:#}"));
                ExitCode::FAILURE
            }
        }
    }

    fn try_execute(self) -> anyhow::Result<ExitStatus> {
        let settings = Settings::load(self.config.as_deref())?;
        if matches!(self.command, Command::Run { .. }) {
            run::reexec_with_large_stacks();
        }
        if matches!(self.command, Command::Config) {
            return admin::config(&settings, self.json);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        match self.command {
            Command::Demo => return runtime.block_on(demo::demo(self.json)),
            Command::Csv(csv) => return runtime.block_on(csv.execute(self.json)),
            _ => {}
        }
        telemetry::start(&settings.log)?;
        let done = runtime.block_on(async {
            let app = App::new(settings)?;
            match self.command {
                Command::Run { only } => run::run(&app, only).await,
                Command::Send(send) => send.execute(&app, self.json).await,
                Command::Status => status::status(&app, self.json).await,
                Command::DeadLetters(letters) => letters.execute(&app, self.json).await,
                Command::Outbox(outbox) => outbox.execute(&app, self.json).await,
                Command::Orders(orders) => orders.execute(&app, self.json).await,
                Command::View(view) => view.execute(&app, self.json).await,
                Command::Migrate => admin::migrate(&app, self.json).await,
                Command::Topology => admin::topology(&app, self.json).await,
                Command::Config | Command::Csv(_) | Command::Demo => {
                    unreachable!("answered above, without servers")
                }
            }
        });
        // What still hangs on a server that is away must not keep the process.
        runtime.shutdown_background();
        done
    }
}

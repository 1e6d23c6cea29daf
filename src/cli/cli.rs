//! The arguments of the program and the dispatch to its subcommands.

use std::{path::PathBuf, process::ExitCode};

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::{
    bootstrap::{App, Role},
    config::Settings,
    reexec::reexec_with_large_stacks,
    telemetry,
};

use super::{
    admin, csv, dead_letters, demo, doctor, exit::ExitStatus, health, orders, outbox, output, run, send,
    shell, status, trace, view, why,
};

/// Allocates order lines to batches of stock: commands in from RabbitMQ, one Postgres transaction, events out.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
#[command(
    after_help = "Settings: config/default.toml lists every key. A file given by --config overrides it, then \
    DATABASE_URL, AMQP_URL and OTEL_EXPORTER_OTLP_ENDPOINT, then variables like ALLOCATION__WORKER__MAX_BATCH. `allocation config` prints the result.\n\
    Exit status: 0 done, 1 failed or not all done, 2 usage error."
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
    /// Run until SIGTERM, SIGHUP or Ctrl-C; a second signal exits immediately.
    Run {
        /// Run only these roles.
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
    /// Show queues, outbox, failures and schema, and whether the servers respond.
    Status,
    /// Check servers, schema, rights, exchanges, queues, processes and settings; print what repairs them.
    Doctor(doctor::Doctor),
    /// Ask a process on this machine whether it is live: for the health checks of containers.
    Health(health::Health),
    /// List failed commands, and retry, edit, discard or restore them.
    DeadLetters(dead_letters::DeadLetters),
    /// List unpublished events, and retry those that the broker rejected.
    Outbox(outbox::Outbox),
    /// Show an order.
    Orders(orders::Orders),
    /// Show the history of a message or of an order, and what is not known about it.
    Trace(trace::Trace),
    /// Explain why a queue does not move, or why an order is not allocated.
    Why(why::Why),
    /// Maintain the read model.
    View(view::View),
    /// Allocate the orders in a folder of CSV files, without servers.
    Csv(csv::Csv),
    /// Run the example day in memory, without servers. Nothing is stored.
    Demo,
    /// Create the database if it is missing, migrate its schema, and record its namespace.
    Migrate {
        /// Change the namespace that the database belongs to. Stop all processes before.
        #[arg(long)]
        rename_namespace: bool,
    },
    /// Declare exchanges and queues, and report those that exist with other arguments.
    Topology,
    /// Print the effective settings, without secrets.
    Config,
    /// Print a script that completes this command line in a shell.
    Completions(shell::Completions),
    /// Write the manual pages.
    Man(shell::Man),
}

impl Cli {
    /// Runs the subcommand and prints its error, if any.
    #[must_use]
    pub fn execute(self) -> ExitCode {
        let status = self.try_execute().unwrap_or_else(|error| {
            output::error(&format!("{error:#}"));
            ExitStatus::Incomplete
        });
        status.into()
    }

    fn try_execute(self) -> anyhow::Result<ExitStatus> {
        match &self.command {
            Command::Completions(completions) => return completions.execute(Self::command()),
            Command::Man(man) => return man.execute(Self::command()),
            _ => {}
        }
        let settings = match Settings::load(self.config.as_deref()) {
            Ok(settings) => settings,
            Err(invalid) => {
                invalid.mistakes.iter().for_each(|mistake| output::error(mistake));
                return Ok(ExitStatus::UsageError);
            }
        };
        match self.command {
            Command::Run { .. } => reexec_with_large_stacks(),
            Command::Config => return admin::config(&settings, self.json),
            _ => {}
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let status = runtime.block_on(self.command.execute(settings, self.json));
        // A task that waits for an unresponsive server must not keep the process alive.
        runtime.shutdown_background();
        status
    }
}

impl Command {
    async fn execute(self, settings: Settings, json: bool) -> anyhow::Result<ExitStatus> {
        match self {
            Self::Demo => demo::demo(json).await,
            Self::Csv(csv) => csv.execute(json).await,
            command => {
                let _logging = telemetry::start(&settings.log)?;
                command.execute_on(&App::new(settings)?, json).await
            }
        }
    }

    /// The subcommands that use servers.
    async fn execute_on(self, app: &App, json: bool) -> anyhow::Result<ExitStatus> {
        match self {
            Self::Run { only } => run::run(app, only).await,
            Self::Send(send) => send.execute(app, json).await,
            Self::Status => status::status(app, json).await,
            Self::Doctor(doctor) => doctor.execute(app, json).await,
            Self::Health(health) => health.execute(app.health_address()),
            Self::DeadLetters(letters) => letters.execute(app, json).await,
            Self::Outbox(outbox) => outbox.execute(app, json).await,
            Self::Orders(orders) => orders.execute(app, json).await,
            Self::Trace(trace) => trace.execute(app, json).await,
            Self::Why(why) => why.execute(app, json).await,
            Self::View(view) => view.execute(app, json).await,
            Self::Migrate { rename_namespace } => admin::migrate(app, rename_namespace, json).await,
            Self::Topology => admin::topology(app, json).await,
            Self::Config | Self::Csv(_) | Self::Demo | Self::Completions(_) | Self::Man(_) => {
                unreachable!("these subcommands use no servers")
            }
        }
    }
}

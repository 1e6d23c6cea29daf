//! Throughput, latency and costs of the whole pipeline, on the running servers.
//!
//! `cargo bench --bench pipeline -- [PART…] [ROUNDS=3] [COMMANDS=50000]`; without a part every part is measured:
//!
//! - `a` end to end: from a full queue of commands to the last event
//! - `b` the pgbench baseline: the statements of one command per transaction
//! - `c` as `a`, with one command per unit of work
//! - `d` latency from a command to its event, at a steady rate
//! - `e` as `a`, with most commands for few SKUs
//! - `f` as `a`, with a million allocations, backorders or handled messages in the database
//! - `g` an idle program
//! - `h` start-up time and size
//! - `m` memory with large messages
//!
//! Every round makes each measurement once, and ratios are calculated within a round. The table shows medians;
//! `target/bench/pipeline.json` has the figures of each round. The ratios should hold on any machine, the single figures depend
//! on it.

mod arguments;
mod broker;
mod commands;
mod dataset;
mod figures;
mod idle;
mod large;
mod latency;
mod measurement;
mod pgbench;
mod preparation;
mod process;
mod progress;
mod report;
mod servers;
mod startup;
mod system;
mod throughput;

use std::{env, io, panic::AssertUnwindSafe, process::ExitCode};

use anyhow::{Context as _, anyhow};
use futures_util::FutureExt as _;
use tokio::signal::unix::{SignalKind, signal};

use arguments::Arguments;
use figures::Figures;
use measurement::Measurement;
use preparation::prepare;
use progress::log;
use servers::BenchServers;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match Arguments::read(env::args().skip(1), |key| env::var(key).ok()) {
        Ok(arguments) => arguments,
        Err(error) => {
            log(&format!("{error:#}"));
            return ExitCode::from(2);
        }
    };
    match bench(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Measures, reports the results so far, and removes everything from the servers, also after an error, a panic or a signal.
async fn bench(arguments: &Arguments) -> anyhow::Result<()> {
    let servers = BenchServers::open().await.context("cannot use the servers")?;
    let mut figures = Figures::default();
    let stop = stop_signal()?;
    let outcome = tokio::select! {
        outcome = AssertUnwindSafe(measure(&servers, arguments, &mut figures)).catch_unwind() => {
            outcome.unwrap_or_else(|panic| Err(anyhow!("panicked: {}", text(&*panic))))
        }
        () = stop => Err(anyhow!("stopped by a signal")),
    };
    let server = servers.describe().await;
    let closed = servers.close().await.context("cannot remove everything from the servers");
    report::report(&figures, arguments, &server.unwrap_or_default(), outcome.is_ok())?;
    outcome.and(closed)
}

/// Every second round has the reverse order, so that a machine that becomes slower does not favour the first measurements.
async fn measure(servers: &BenchServers, arguments: &Arguments, figures: &mut Figures) -> anyhow::Result<()> {
    let mut measurements: Vec<_> =
        Measurement::ALL.into_iter().filter(|measurement| arguments.wants(measurement.part())).collect();
    prepare(servers, &measurements).await.context("preparing the databases")?;
    for round in 1..=arguments.rounds {
        for measurement in &measurements {
            let figure = measurement
                .measure(servers, arguments.commands, figures)
                .await
                .with_context(|| format!("{}, {}", measurement.part(), measurement.name()))?;
            log(&format!(
                "round {round} of {}: {}, {}: {figure}",
                arguments.rounds,
                measurement.part(),
                measurement.name()
            ));
        }
        measurements.reverse();
    }
    Ok(())
}

/// Completes at SIGINT or SIGTERM.
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// The message of a panic.
fn text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

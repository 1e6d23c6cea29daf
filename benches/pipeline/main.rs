//! The whole pipeline on the running servers: how many commands a second, how soon, and at what cost.
//!
//! `cargo bench --bench pipeline -- [PART…] [ROUNDS=3] [COMMANDS=50000]`; without a name every part is measured:
//!
//! - `a` end to end: a queue full of commands, until the last event has arrived
//! - `b` the floor: the statements of one command, a transaction each, by pgbench
//! - `c` as `a`, one command per unit of work
//! - `d` from a command to its event, at a steady rate
//! - `e` as `a`, with most of the commands about few SKUs
//! - `f` as `a`, beside a million allocations, backorders or handled messages
//! - `g` at rest
//! - `h` how soon it is there, and how large it is
//!
//! Every round measures everything once, so what a ratio compares was measured side by side; the table shows medians
//! of the rounds, and `target/bench/pipeline.json` has each of them. The ratios should hold on any machine; the single
//! figures are this machine's.

mod arguments;
mod broker;
mod commands;
mod figures;
mod floor;
mod growth;
mod lab;
mod latency;
mod measurement;
mod process;
mod report;
mod rest;
mod startup;
mod throughput;
mod world;

use std::{
    env,
    io::{self, Write as _},
    panic::AssertUnwindSafe,
    process::ExitCode,
};

use anyhow::{Context as _, anyhow};
use futures_util::FutureExt as _;
use tokio::signal::unix::{SignalKind, signal};

use arguments::Arguments;
use figures::Figures;
use lab::Lab;
use measurement::Measurement;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match Arguments::read(env::args().skip(1), |key| env::var(key).ok()) {
        Ok(arguments) => arguments,
        Err(error) => {
            say(&format!("{error:#}"));
            return ExitCode::from(2);
        }
    };
    match bench(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Whatever happens, the servers are left as they were, and what was measured until then is told.
async fn bench(arguments: &Arguments) -> anyhow::Result<()> {
    let lab = Lab::open().await.context("the servers cannot be used")?;
    let mut figures = Figures::default();
    let told_to_stop = told_to_stop()?;
    let outcome = tokio::select! {
        outcome = AssertUnwindSafe(play(&lab, arguments, &mut figures)).catch_unwind() => {
            outcome.unwrap_or_else(|panic| Err(anyhow!("panicked: {}", text(&*panic))))
        }
        () = told_to_stop => Err(anyhow!("told to stop")),
    };
    let server = lab.describe().await;
    let closed = lab.close().await.context("not everything could be removed from the servers");
    report::report(&figures, arguments, &server.unwrap_or_default(), outcome.is_ok())?;
    outcome.and(closed)
}

/// Every other round goes backwards, so that a machine that slows down does not favour what comes first.
async fn play(lab: &Lab, arguments: &Arguments, figures: &mut Figures) -> anyhow::Result<()> {
    let mut measurements: Vec<_> =
        Measurement::ALL.into_iter().filter(|measurement| arguments.wants(measurement.part())).collect();
    lab.prepare(&measurements).await.context("preparing the databases")?;
    for round in 1..=arguments.rounds {
        for measurement in &measurements {
            let told = measurement
                .measure(lab, arguments.commands, figures)
                .await
                .with_context(|| format!("{}, {}", measurement.part(), measurement.name()))?;
            say(&format!(
                "round {round} of {}: {}, {}: {told}",
                arguments.rounds,
                measurement.part(),
                measurement.name()
            ));
        }
        measurements.reverse();
    }
    Ok(())
}

fn told_to_stop() -> io::Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Progress, and what is wrong.
fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

fn text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a word")
}

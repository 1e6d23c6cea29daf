//! Chaos tests: private servers, processes that are killed with SIGKILL, and a checker of the resulting state.
//!
//! `make chaos` runs every scenario and a short soak, `make soak DURATION=1h` a long soak. Without a name every
//! scenario runs; `--list` lists them. Exit status: 0 every check passed, 1 a check failed, 2 the tests cannot run on
//! this machine.

mod arguments;
mod broker_client;
mod check_report;
mod checker;
mod cluster;
mod command;
mod command_load;
mod command_source;
#[path = "../consistency.rs"]
mod consistency;
mod journal;
mod kill_point;
mod observer;
mod operators;
mod output;
mod program;
#[path = "../prometheus.rs"]
mod prometheus;
mod proxy;
mod random;
mod scenarios;
mod servers;
mod shutdown;
mod soak;
mod switches;
mod test_system;
mod wait;
mod wire;

use std::{
    env,
    panic::AssertUnwindSafe,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use arguments::Arguments;
use check_report::CheckReport;
use cluster::Cluster;
use futures_util::{FutureExt as _, future::LocalBoxFuture};
use output::print_line;
use scenarios::Scenario;
use tokio::signal::unix::{SignalKind, signal};

/// Time limit of one scenario.
const SCENARIO_TIMEOUT: Duration = Duration::from_mins(5);
/// Names of the two soaks. The second can run without the first.
const SOAK: &str = "soak";
const SOAK_OPERATORS: &str = "soak_operators";

fn main() -> ExitCode {
    let arguments = match Arguments::parse(env::args().skip(1), |key| env::var(key).ok()) {
        Ok(arguments) => arguments,
        Err(error) => {
            print_line(&format!("{error:#}"));
            return ExitCode::from(2);
        }
    };
    if arguments.list {
        scenarios::list();
        return ExitCode::SUCCESS;
    }
    let unknown: Vec<_> = arguments.names.iter().filter(|name| !is_known(name)).cloned().collect();
    let missing_software = servers::missing_software();
    if !unknown.is_empty() || !missing_software.is_empty() {
        for name in &unknown {
            print_line(&format!("unknown scenario {name}; --list lists the scenarios"));
        }
        for software in &missing_software {
            print_line(&format!("missing: {software}"));
        }
        return ExitCode::from(2);
    }
    match run_all(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            print_line(&format!("cannot use the servers: {error:#}"));
            ExitCode::from(2)
        }
    }
}

fn is_known(name: &str) -> bool {
    name == SOAK || name == SOAK_OPERATORS || scenarios::ALL.iter().any(|scenario| scenario.name == name)
}

/// True if every check passed. Dropping the cluster stops servers and processes, after a panic or a signal as well.
fn run_all(arguments: &Arguments) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let stop_signal = stop_signal()?;
        tokio::select! {
            result = run_selected(arguments) => result,
            name = stop_signal => {
                print_line(&format!("{name}: stopping"));
                Ok(false)
            }
        }
    })
}

/// The first stop signal that arrives after this call.
fn stop_signal() -> anyhow::Result<impl Future<Output = &'static str>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        }
    })
}

async fn run_selected(arguments: &Arguments) -> anyhow::Result<bool> {
    let cluster = Cluster::start().await?;
    let full = arguments.names.is_empty();
    let selected = |name: &str| full || arguments.names.iter().any(|named| named == name);
    let mut reports = Vec::new();
    for scenario in scenarios::ALL.iter().filter(|scenario| selected(scenario.name)) {
        reports
            .push(run_with_retries(arguments.retries, async || run_scenario(scenario, &cluster).await).await);
    }
    if selected(SOAK) {
        let soak = async || {
            run_soak(&cluster, SOAK, soak::INJECTED, soak::soak(&cluster, arguments.size).boxed_local()).await
        };
        reports.push(run_with_retries(arguments.retries, soak).await);
    }
    if selected(SOAK) || selected(SOAK_OPERATORS) {
        let soak = async || {
            let soak = operators::soak_operators(&cluster, arguments.size).boxed_local();
            run_soak(&cluster, SOAK_OPERATORS, operators::INJECTED, soak).await
        };
        reports.push(run_with_retries(arguments.retries, soak).await);
    }
    Ok(output::print_summary(&reports, &cluster, full))
}

/// Repeats a scenario that was aborted without a finding, and prints that it did.
async fn run_with_retries(retries: u32, run: impl AsyncFn() -> CheckReport) -> CheckReport {
    let mut report = run().await;
    for _ in 0..retries {
        if report.may_be_retried() {
            print_line(&format!("flaky: repeating {}", report.scenario));
            report = run().await.preceded_by(report);
        }
    }
    report
}

/// Runs a soak without a time limit of its own.
async fn run_soak(
    cluster: &Cluster,
    name: &str,
    injects: &str,
    soak: LocalBoxFuture<'_, anyhow::Result<CheckReport>>,
) -> CheckReport {
    let begin = Instant::now();
    let result = AssertUnwindSafe(soak).catch_unwind().await;
    let outcome = result.unwrap_or_else(|panic| Err(anyhow!("panicked: {}", panic_message(&*panic))));
    let elapsed = begin.elapsed();
    repair(cluster, &outcome).await;
    let aborted = |error: anyhow::Error| CheckReport::aborted(name, injects, &error, elapsed);
    let mut report = outcome.unwrap_or_else(aborted);
    report.violations.extend(cluster.take_unreported());
    output::print_report(&report);
    report
}

/// Runs one scenario. An error or a panic becomes part of its report.
async fn run_scenario(scenario: &Scenario, cluster: &Cluster) -> CheckReport {
    let begin = Instant::now();
    let run = tokio::time::timeout(SCENARIO_TIMEOUT, (scenario.run)(cluster));
    let outcome = match AssertUnwindSafe(run).catch_unwind().await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(anyhow!("timed out after {SCENARIO_TIMEOUT:?}")),
        Err(panic) => Err(anyhow!("panicked: {}", panic_message(&*panic))),
    };
    let elapsed = begin.elapsed();
    cluster.seed_bug(None);
    repair(cluster, &outcome).await;
    let aborted =
        |error: anyhow::Error| CheckReport::aborted(scenario.name, scenario.injects, &error, elapsed);
    let mut report =
        CheckReport { injected: scenario.injects.to_owned(), elapsed, ..outcome.unwrap_or_else(aborted) };
    report.violations.extend(cluster.take_unreported());
    output::print_report(&report);
    report
}

/// A failed scenario may have left a fault in place.
async fn repair(cluster: &Cluster, outcome: &anyhow::Result<CheckReport>) {
    if !outcome.as_ref().is_ok_and(CheckReport::is_clean)
        && let Err(error) = cluster.repair().await
    {
        print_line(&format!("cannot repair the servers: {error:#}"));
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("panic without a message")
}

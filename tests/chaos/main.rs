//! Chaos: servers of our own, processes that are killed for real, and a checker that counts what is left.
//!
//! `make chaos` plays every scenario and a short soak, `make soak DURATION=1h` a long one. What is not named is played;
//! `--list` names everything. Exit status: 0 all holds, 1 something does not, 2 it cannot be played here.

mod arguments;
mod checker;
mod command;
#[path = "../consistency.rs"]
mod consistency;
mod ending;
mod journal;
mod lab;
mod link;
mod load;
mod observer;
mod operators;
mod program;
mod protocol;
mod proxy;
mod random;
mod report;
mod scenarios;
mod servers;
mod soak;
mod switches;
mod upstream;
mod verdict;
mod wait;
mod world;

use std::{
    env,
    panic::AssertUnwindSafe,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use arguments::Arguments;
use futures_util::{FutureExt as _, future::LocalBoxFuture};
use lab::Lab;
use report::say;
use scenarios::Scenario;
use tokio::signal::unix::{SignalKind, signal};
use verdict::Verdict;

/// No single fault takes longer, whatever is waited for.
const PLAYED_WITHIN: Duration = Duration::from_mins(5);
/// What the soak is called, and its second part, which can be played without the first.
const SOAK: &str = "soak";
const SOAK_OPERATORS: &str = "soak_operators";

fn main() -> ExitCode {
    let arguments = match Arguments::read(env::args().skip(1), |key| env::var(key).ok()) {
        Ok(arguments) => arguments,
        Err(error) => {
            say(&format!("{error:#}"));
            return ExitCode::from(2);
        }
    };
    if arguments.list {
        scenarios::list();
        return ExitCode::SUCCESS;
    }
    let unknown: Vec<_> = arguments.names.iter().filter(|name| !is_known(name)).cloned().collect();
    let missing = servers::missing();
    if !unknown.is_empty() || !missing.is_empty() {
        for name in &unknown {
            say(&format!("there is no scenario {name}; --list names them"));
        }
        for what in &missing {
            say(&format!("missing: {what}"));
        }
        return ExitCode::from(2);
    }
    match play_all(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("the servers could not be used: {error:#}"));
            ExitCode::from(2)
        }
    }
}

fn is_known(name: &str) -> bool {
    name == SOAK || name == SOAK_OPERATORS || scenarios::ALL.iter().any(|scenario| scenario.name == name)
}

/// True if everything holds. The servers and processes end with the lab, also when something panics or we are told to
/// stop.
fn play_all(arguments: &Arguments) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let told_to_stop = told_to_stop()?;
        tokio::select! {
            held = play_wanted(arguments) => held,
            name = told_to_stop => {
                say(&format!("{name}: nothing more is played"));
                Ok(false)
            }
        }
    })
}

/// The first signal that ends us, which is heard from now on.
fn told_to_stop() -> anyhow::Result<impl Future<Output = &'static str>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        }
    })
}

async fn play_wanted(arguments: &Arguments) -> anyhow::Result<bool> {
    let lab = Lab::open().await?;
    let full = arguments.names.is_empty();
    let wanted = |name: &str| full || arguments.names.iter().any(|named| named == name);
    let mut verdicts = Vec::new();
    for scenario in scenarios::ALL.iter().filter(|scenario| wanted(scenario.name)) {
        verdicts.push(patiently(arguments.retries, async || play(scenario, &lab).await).await);
    }
    if wanted(SOAK) {
        let soak = async || {
            play_soak(&lab, SOAK, soak::INJECTED, soak::soak(&lab, arguments.size).boxed_local()).await
        };
        verdicts.push(patiently(arguments.retries, soak).await);
    }
    if wanted(SOAK) || wanted(SOAK_OPERATORS) {
        let soak = async || {
            let soak = operators::soak_operators(&lab, arguments.size).boxed_local();
            play_soak(&lab, SOAK_OPERATORS, operators::INJECTED, soak).await
        };
        verdicts.push(patiently(arguments.retries, soak).await);
    }
    Ok(report::summary(&verdicts, &lab, full))
}

/// Plays again what broke off without anything wrong; that it was necessary is said.
async fn patiently(retries: u32, play: impl AsyncFn() -> Verdict) -> Verdict {
    let mut verdict = play().await;
    for _ in 0..retries {
        if verdict.may_be_played_again() {
            say(&format!("flaky: {} is played again", verdict.scenario));
            verdict = play().await.after(verdict);
        }
    }
    verdict
}

/// Plays a part of the soak, which takes as long as it was told to.
async fn play_soak(
    lab: &Lab,
    name: &str,
    injects: &str,
    soak: LocalBoxFuture<'_, anyhow::Result<Verdict>>,
) -> Verdict {
    let begin = Instant::now();
    let soaked = AssertUnwindSafe(soak).catch_unwind().await;
    let outcome = soaked.unwrap_or_else(|panic| Err(anyhow!("panicked: {}", text(&*panic))));
    let took = begin.elapsed();
    mend(lab, &outcome).await;
    let broken = |error: anyhow::Error| Verdict::broken(name, injects, &error, took);
    let mut verdict = outcome.unwrap_or_else(broken);
    verdict.complaints.extend(lab.take_unjudged());
    report::progress(&verdict);
    verdict
}

/// Plays one scenario; whatever goes wrong is its verdict.
async fn play(scenario: &Scenario, lab: &Lab) -> Verdict {
    let begin = Instant::now();
    let playing = tokio::time::timeout(PLAYED_WITHIN, (scenario.play)(lab));
    let outcome = match AssertUnwindSafe(playing).catch_unwind().await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(anyhow!("not over within {PLAYED_WITHIN:?}")),
        Err(panic) => Err(anyhow!("panicked: {}", text(&*panic))),
    };
    let took = begin.elapsed();
    lab.plant(None);
    mend(lab, &outcome).await;
    let broken = |error: anyhow::Error| Verdict::broken(scenario.name, scenario.injects, &error, took);
    let mut verdict =
        Verdict { injected: scenario.injects.to_owned(), took, ..outcome.unwrap_or_else(broken) };
    verdict.complaints.extend(lab.take_unjudged());
    report::progress(&verdict);
    verdict
}

/// A scenario that did not go well may have left its fault behind.
async fn mend(lab: &Lab, outcome: &anyhow::Result<Verdict>) {
    if !outcome.as_ref().is_ok_and(Verdict::is_clean)
        && let Err(error) = lab.mend().await
    {
        say(&format!("the servers could not be mended: {error:#}"));
    }
}

fn text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a word")
}

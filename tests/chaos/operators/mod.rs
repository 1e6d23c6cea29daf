//! Operators at work during random failures, from a seed: failing commands, discards, retries and edits through the
//! command line, restarts, outages and late commits, with a retention of seconds. Every message must have exactly one
//! outcome.
//!
//! Each round has its own test system, and its seed is one more than that of the round before. So a round of a long
//! run can be repeated by itself.

mod faults;
mod journal;
mod mutations;
mod operator;
mod outcomes;
mod plan;
mod traffic;
mod transitions;

use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::{
    arguments::Size, check_report::CheckReport, checker, cluster::Cluster, output::print_line,
    random::Random, soak::Fleet, switches, test_system::TestSystem, wait::wait_until_equal,
};
use journal::History;
use operator::Operator;
use plan::{Step, describe, plan};
use traffic::Traffic;

pub(crate) const INJECTED: &str = "random operator calls, failures and outages, from a seed";

/// Faults in a round.
const FAULTS: u32 = 26;
/// New messages per step, in addition to scheduled ones.
const NEW_MESSAGES: usize = 30;
/// The delay of a unit of work in slow steps.
const SLOW_WORK_DELAY: Duration = Duration::from_millis(60);
/// After returning messages several times without success, a consumer pauses for up to five minutes.
const OUTCOMES_WITHIN: Duration = Duration::from_secs(330);
/// How many findings of a kind are listed.
const MAX_SHOWN: usize = 12;
/// Failing messages are dead-lettered soon, ended ones removed soon, and messages soon returned to the queue in an
/// outage.
const SETTINGS: &[(&str, &str)] = &[
    ("ALLOCATION__RETRY__INITIAL_INTERVAL", "200ms"),
    ("ALLOCATION__RETRY__MAX_ATTEMPTS", "3"),
    ("ALLOCATION__RETENTION__FAILURES", "3s"),
    ("ALLOCATION__RETENTION__INBOX", "1h"),
    ("ALLOCATION__WORKER__REQUEUE_AFTER", "1s"),
];

/// Runs rounds until the time has passed or a check fails; one round without a duration.
pub(crate) async fn soak_operators(cluster: &Cluster, size: Size) -> anyhow::Result<CheckReport> {
    let begin = Instant::now();
    for seed in size.seed.. {
        let report = run_round(cluster, seed).await?;
        let finished = size.duration.is_none_or(|duration| begin.elapsed() >= duration);
        if finished || !report.is_clean() {
            return Ok(report);
        }
    }
    unreachable!("there is always another seed")
}

async fn run_round(cluster: &Cluster, seed: u64) -> anyhow::Result<CheckReport> {
    let mut random = Random::seeded(seed);
    let steps = plan(FAULTS, &mut random);
    print_line(&format!("soak_operators: SEED={seed}, plan: {}", describe(&steps)));
    let system = TestSystem::new(cluster, "soak_operators").await?;
    switches::install(&system).await?;
    journal::prepare(&system).await?;
    let fleet = Fleet::start(&system, SETTINGS).await?;
    fleet.slow_links(); // so that there is always work in flight
    let mut round = Round {
        system: &system,
        fleet,
        traffic: Traffic::seeded(seed),
        operators: [Operator::named("anna"), Operator::named("bert")],
    };
    if let Err(error) = round.run_steps(steps).await {
        system.violations.borrow_mut().push(format!("{error:#}"));
    }
    let Round { fleet, operators, .. } = round;
    switches::set_disk_full(&system, false).await?;
    switches::set_commit_delay(&system, Duration::ZERO).await?;
    switches::set_work_delay(&system, Duration::ZERO).await?;
    fleet.refuse_database_connections(false);
    fleet.broker.refuse_connections(false);
    let outcomes = async || journal::messages_without_outcome(&system).await;
    system
        .note_timeout(wait_until_equal("messages without an outcome", OUTCOMES_WITHIN, &0, outcomes).await)?;
    let (programs, _proxies) = fleet.into_programs();
    system.drain_and_stop(programs).await?;
    let mut report = check(&system, operators).await?;
    report.injected = format!("{INJECTED} {seed}");
    system.close(report).await
}

/// The state of a round.
struct Round<'a, 'cluster> {
    system: &'a TestSystem<'cluster>,
    fleet: Fleet,
    traffic: Traffic,
    operators: [Operator; 2],
}

impl Round<'_, '_> {
    async fn run_steps(&mut self, steps: Vec<Step>) -> anyhow::Result<()> {
        let system = self.system;
        journal::send(system, &self.traffic.initial_messages()).await?;
        let outcomes = async || journal::messages_without_outcome(system).await;
        wait_until_equal("initial messages without an outcome", system.timeout(), &0, outcomes).await?;
        for step in steps {
            self.run_step(&step).await.with_context(|| format!("{:?}", step.fault))?;
        }
        Ok(())
    }

    /// Sends messages, runs operator calls and injects a fault at the same time.
    async fn run_step(&mut self, step: &Step) -> anyhow::Result<()> {
        let system = self.system;
        let portion = self.traffic.portion(NEW_MESSAGES);
        switches::set_work_delay(system, if step.slow { SLOW_WORK_DELAY } else { Duration::ZERO }).await?;
        let sending = async {
            journal::send(system, &portion).await?;
            operator::resend_discarded(system, step.resent).await
        };
        let fleet = &mut self.fleet;
        let fault = async {
            tokio::time::sleep(step.after).await; // part of the plan
            faults::inject(fleet, system, step.fault).await
        };
        let [first, second] = &mut self.operators;
        let operators = async {
            tokio::try_join!(
                first.run_calls(system, &step.operators[0]),
                second.run_calls(system, &step.operators[1])
            )
        };
        let (sent, injected, called) = tokio::join!(sending, fault, operators);
        sent.context("messages")?;
        injected?;
        called.context("operators")?;
        Ok(())
    }
}

async fn check(system: &TestSystem<'_>, operators: [Operator; 2]) -> anyhow::Result<CheckReport> {
    let reports: Vec<_> = operators.into_iter().flat_map(|operator| operator.reports).collect();
    let mut connection = system.pool.acquire().await?;
    let history = History::read(&mut connection).await?;
    drop(connection);
    let findings = outcomes::check(&history);
    let counts: Vec<_> =
        findings.outcomes.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
    system.add_evidence(counts.join(", "));
    system.add_evidence(operator::summary(&reports));
    print_line(&format!("soak_operators: {}; {}", counts.join(", "), operator::summary(&reports)));
    for message in findings.affected.iter().take(MAX_SHOWN) {
        print_line(&format!("{message:?}\n{}", history.timeline(message).join("\n")));
    }
    let mut report = checker::check_state(system).await?;
    report.lost.extend(findings.lost);
    report.repeated.extend(findings.repeated);
    report.violations.extend(findings.violations.into_iter().take(MAX_SHOWN));
    report.violations.extend(transitions::check(&history, &reports).into_iter().take(MAX_SHOWN));
    if report.is_clean() {
        let (undetected, applied) = mutations::undetected(system).await?;
        print_line(&format!("soak_operators: {applied} mutations tested"));
        report.violations.extend(undetected);
    }
    report.elapsed = system.started_at.elapsed();
    Ok(report)
}

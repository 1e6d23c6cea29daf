//! Operators at work while everything else goes wrong, from a seed: commands that fail, discards, retries and edits
//! through the command line, restarts, outages and late commits, with a retention of seconds. Every message has exactly
//! one outcome in the end.
//!
//! Each round is a world of its own, and its seed is one more than that of the round before, so that a round of a long
//! run can be repeated by itself.

mod faults;
mod journal;
mod operator;
mod outcomes;
mod plan;
mod proof;
mod traffic;
mod transitions;

use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::{
    arguments::Size, checker, lab::Lab, random::Random, report::say, soak::Fleet, switches, verdict::Verdict,
    wait::until_is, world::World,
};
use journal::History;
use operator::Operator;
use plan::{Step, describe, plan};
use traffic::Traffic;

pub(crate) const INJECTED: &str = "operators, failures and outages at random, from a seed";

/// Faults in a round.
const STEPS: u32 = 26;
/// New messages with each of them, besides those that belong to earlier ones.
const MESSAGES: usize = 30;
/// How long a unit of work takes in steps in which it takes long.
const SLOW_WORK: Duration = Duration::from_millis(60);
/// Of so many messages of a kind the names are shown.
const SHOWN: usize = 12;
/// What fails is dead soon, what is over is removed soon, and an outage is soon too long to wait for its end.
const SETTINGS: &[(&str, &str)] = &[
    ("ALLOCATION__RETRY__INITIAL_INTERVAL", "200ms"),
    ("ALLOCATION__RETRY__MAX_ATTEMPTS", "3"),
    ("ALLOCATION__RETENTION__FAILURES", "3s"),
    ("ALLOCATION__RETENTION__INBOX", "1h"),
    ("ALLOCATION__WORKER__REQUEUE_AFTER", "1s"),
];

/// Plays rounds until the time is over or something is wrong; one if no time is given.
pub(crate) async fn soak_operators(lab: &Lab, size: Size) -> anyhow::Result<Verdict> {
    let begin = Instant::now();
    for seed in size.seed.. {
        let verdict = round(lab, seed).await?;
        let over = size.duration.is_none_or(|duration| begin.elapsed() >= duration);
        if over || !verdict.is_clean() {
            return Ok(verdict);
        }
    }
    unreachable!("there is always another seed")
}

async fn round(lab: &Lab, seed: u64) -> anyhow::Result<Verdict> {
    let mut random = Random::seeded(seed);
    let steps = plan(STEPS, &mut random);
    say(&format!("soak_operators: SEED={seed}, plan: {}", describe(&steps)));
    let world = World::new(lab, "soak_operators").await?;
    switches::install(&world).await?;
    journal::prepare(&world).await?;
    let fleet = Fleet::start(&world, SETTINGS).await?;
    fleet.slow_links(); // so that there is always something in flight
    let mut round = Round {
        world: &world,
        fleet,
        traffic: Traffic::seeded(seed),
        operators: [Operator::of("anna"), Operator::of("bert")],
    };
    if let Err(error) = round.play(steps).await {
        world.complaints.borrow_mut().push(format!("{error:#}"));
    }
    let Round { fleet, operators, .. } = round;
    switches::disk_full(&world, false).await?;
    switches::commit_takes(&world, Duration::ZERO).await?;
    switches::work_takes(&world, Duration::ZERO).await?;
    fleet.refuse_database(false);
    fleet.broker.refuse(false);
    let outcomes = async || journal::without_outcome(&world).await;
    world.in_time(until_is("messages without an outcome", world.patience(), &0, outcomes).await)?;
    let (programs, _links) = fleet.into_programs();
    world.settle(programs).await?;
    let mut verdict = judge(&world, operators).await?;
    verdict.injected = format!("{INJECTED} {seed}");
    world.close(verdict).await
}

/// Everything that moves in a round.
struct Round<'a, 'lab> {
    world: &'a World<'lab>,
    fleet: Fleet,
    traffic: Traffic,
    operators: [Operator; 2],
}

impl Round<'_, '_> {
    async fn play(&mut self, steps: Vec<Step>) -> anyhow::Result<()> {
        let world = self.world;
        journal::send(world, &self.traffic.anchors()).await?;
        let anchors = async || journal::without_outcome(world).await;
        until_is("the first messages have no outcome", world.patience(), &0, anchors).await?;
        for step in steps {
            self.step(&step).await.with_context(|| format!("{:?}", step.fault))?;
        }
        Ok(())
    }

    /// Messages, operators and a fault at the same time.
    async fn step(&mut self, step: &Step) -> anyhow::Result<()> {
        let world = self.world;
        let portion = self.traffic.portion(MESSAGES);
        switches::work_takes(world, if step.slow { SLOW_WORK } else { Duration::ZERO }).await?;
        let sending = async {
            journal::send(world, &portion).await?;
            operator::send_discarded(world, step.sent_again).await
        };
        let fleet = &mut self.fleet;
        let fault = async {
            tokio::time::sleep(step.after).await; // part of the plan
            faults::strike(fleet, world, step.fault).await
        };
        let [one, other] = &mut self.operators;
        let operators = async {
            tokio::try_join!(one.work(world, &step.operators[0]), other.work(world, &step.operators[1]))
        };
        let (sent, struck, worked) = tokio::join!(sending, fault, operators);
        sent.context("messages")?;
        struck?;
        worked.context("operators")?;
        Ok(())
    }
}

async fn judge(world: &World<'_>, operators: [Operator; 2]) -> anyhow::Result<Verdict> {
    let reports: Vec<_> = operators.into_iter().flat_map(|operator| operator.reports).collect();
    let mut connection = world.pool.acquire().await?;
    let history = History::read(&mut connection).await?;
    drop(connection);
    let findings = outcomes::judge(&history);
    let counts: Vec<_> =
        findings.outcomes.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
    world.hit(counts.join(", "));
    world.hit(operator::summary(&reports));
    say(&format!("soak_operators: {}; {}", counts.join(", "), operator::summary(&reports)));
    for suspect in findings.suspects.iter().take(SHOWN) {
        say(&format!("{suspect:?}\n{}", history.timeline(suspect).join("\n")));
    }
    let mut verdict = checker::judge_state(world).await?;
    verdict.lost.extend(findings.lost);
    verdict.double.extend(findings.double);
    verdict.complaints.extend(findings.complaints.into_iter().take(SHOWN));
    verdict.complaints.extend(transitions::judge(&history, &reports).into_iter().take(SHOWN));
    if verdict.is_clean() {
        let (unnoticed, tried) = proof::unnoticed(world).await?;
        say(&format!("soak_operators: the checker was shown {tried} mistakes"));
        verdict.complaints.extend(unnoticed);
    }
    verdict.took = world.begun.elapsed();
    Ok(verdict)
}

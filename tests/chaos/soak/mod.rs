//! Random faults under load, from a seed. Whatever comes of it, nothing is lost, double, out of order, or dead.
//!
//! No fault comes while a message is under suspicion of having killed its worker (a row of `message_starts`): the fifth
//! death in a row makes a message dead, guilty or not, and kills that come faster than anybody can work would make
//! innocent ones dead, as the README says. So no message sees more than one start that a fault interrupts.

mod faults;
mod fleet;
mod plan;

use std::time::Duration;

use anyhow::Context as _;

use crate::{
    arguments::Size,
    command::{Command, Effect},
    lab::Lab,
    load::Load,
    program::Program,
    random::Random,
    report::say,
    scenarios::SETTLED_AFTER,
    verdict::Verdict,
    wait::until_is,
    world::World,
};
use faults::Chaos;
pub(crate) use fleet::Fleet;
use plan::{plan, told};

pub(crate) const INJECTED: &str = "random kills, crashes and cuts under load, from a seed";

/// Whatever was in flight is done by then, after any fault.
const DONE_WITHIN: Duration = Duration::from_mins(2);
/// How it goes is said after so many faults.
const SAID_EVERY: usize = 50;
/// Of so many kills some may have met nobody at work; they are made up for, but not without end.
const TRIES: usize = 3;
/// So many old commands come again at a time.
const PORTION: usize = 1000;

/// Plays rounds of the plan until all kills have met work in flight, or the time is over. In the end old commands come
/// once more.
pub(crate) async fn soak(lab: &Lab, size: Size) -> anyhow::Result<Verdict> {
    say(&format!(
        "soak: SEED={} COMMANDS={} KILLS={} and {} crashes of PostgreSQL, {} of RabbitMQ",
        size.seed, size.commands, size.kills, size.database_crashes, size.broker_crashes
    ));
    let world = World::new(lab, "soak").await?;
    let fleet = Fleet::start(&world, &[]).await?;
    tokio::time::sleep(SETTLED_AFTER.saturating_sub(world.begun.elapsed())).await; // see the constant
    let mut chaos = Chaos { world: &world, fleet, load: Load::seeded(size.seed), kills: 0, probes: 0 };
    let mut played = rounds(&mut chaos, size).await;
    let Chaos { fleet, mut load, kills, .. } = chaos;
    let (mut programs, _links) = fleet.into_programs();
    if played.is_ok() {
        played = superseded(&world, &mut load, &mut programs).await.context("old commands once more");
    }
    if let Err(error) = played {
        world.complaints.borrow_mut().push(format!("{error:#}"));
    }
    if size.duration.is_none() {
        world.expect("kills that met work in flight", &(kills >= size.kills), &true);
    }
    world.expect("failed attempts", &world.failed_attempts().await?, &0);
    let mut verdict = world.finish(programs).await?;
    verdict.injected = format!("{INJECTED} {}", size.seed);
    Ok(verdict)
}

async fn rounds(chaos: &mut Chaos<'_, '_>, size: Size) -> anyhow::Result<()> {
    let mut random = Random::seeded(size.seed);
    let mut round = size;
    for tried in 0.. {
        let steps = plan(round, &mut random);
        say(&format!("plan: {}", told(&steps)));
        for (number, step) in steps.into_iter().enumerate() {
            if number % SAID_EVERY == SAID_EVERY - 1 {
                say(&progress(chaos));
            }
            chaos.play(step).await.with_context(|| format!("{:?}", step.fault))?;
        }
        let left = size.kills.saturating_sub(chaos.kills);
        match size.duration {
            Some(duration) if chaos.world.begun.elapsed() < duration => say(&progress(chaos)),
            None if left > 0 && tried < TRIES => {
                // A kill without a command would meet nobody at work.
                let commands = (size.commands * left / size.kills.max(1)).max(left);
                round = Size { kills: left, commands, database_crashes: 0, broker_crashes: 0, ..size };
            }
            _ => break,
        }
    }
    Ok(())
}

/// Takes every line back, and then sends all old lines and counts once more: without the inbox they would count again.
async fn superseded(world: &World<'_>, load: &mut Load, programs: &mut Vec<Program>) -> anyhow::Result<()> {
    load.handled();
    for portion in load.cancel_all().chunks(PORTION) {
        world.send(portion).await?;
        all_done(world).await?;
    }
    world.stop(vec![programs.remove(0)]).await; // one worker takes everything in order
    let comes_again = |old: &Command| matches!(old.effect, Effect::Line { .. } | Effect::Count { .. });
    let old: Vec<_> = world.upstream.attempted().into_iter().filter(comes_again).collect();
    for (number, portion) in old.chunks(PORTION).enumerate() {
        world.repeat_old(portion, number, DONE_WITHIN).await?;
        all_done(world).await?;
    }
    Ok(())
}

fn progress(chaos: &Chaos<'_, '_>) -> String {
    let (commands, elapsed) = (chaos.world.upstream.attempts(), chaos.world.begun.elapsed());
    format!("{} kills, {commands} commands in {} s", chaos.kills, elapsed.as_secs())
}

/// Waits until everything that was sent is done, and nobody is under suspicion.
async fn all_done(world: &World<'_>) -> anyhow::Result<()> {
    world.all_handled(DONE_WITHIN).await?;
    let suspects = async || world.count("select count(*) from message_starts").await;
    until_is("nobody is under suspicion", DONE_WITHIN, &0, suspects).await.map(drop)
}

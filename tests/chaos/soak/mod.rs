//! Random faults under load, from a seed. Whatever comes of it, nothing is lost, double, out of order, or dead.
//!
//! No fault comes while a message is under suspicion of having killed its worker (a row of `message_starts`): the third
//! death in a row makes a message dead, guilty or not, and kills that come faster than anybody can work would make
//! innocent ones dead, as the README says. So no message sees more than one start that a fault interrupts.

mod faults;
mod fleet;
mod plan;

use std::time::{Duration, Instant};

use crate::{
    arguments::Size, lab::Lab, load::Load, random::Random, report::say, scenarios::SETTLED_AFTER,
    verdict::Verdict, wait::until_is, world::World,
};
use faults::Chaos;
use fleet::Fleet;
use plan::{plan, told};

pub(crate) const INJECTED: &str = "random kills, crashes and cuts under load, from a seed";

/// Whatever was in flight is done by then, after any fault.
const DONE_WITHIN: Duration = Duration::from_mins(2);
/// How it goes is said after so many faults.
const SAID_EVERY: usize = 50;
/// Of so many kills some may have met nobody at work; they are made up for, but not without end.
const TRIES: usize = 3;

/// Plays rounds of the plan until all kills have met work in flight, or the time is over.
pub(crate) async fn soak(lab: &Lab, size: Size) -> anyhow::Result<Verdict> {
    say(&format!(
        "soak: SEED={} COMMANDS={} KILLS={} and {} crashes of PostgreSQL, {} of RabbitMQ",
        size.seed, size.commands, size.kills, size.database_crashes, size.broker_crashes
    ));
    let world = World::new(lab, "soak").await?;
    let fleet = Fleet::start(&world).await?;
    tokio::time::sleep(SETTLED_AFTER.saturating_sub(world.begun.elapsed())).await; // see the constant
    let mut random = Random::seeded(size.seed);
    let mut chaos = Chaos { world: &world, fleet, load: Load::seeded(size.seed), kills: 0, probes: 0 };
    let mut round = size;
    'rounds: for tried in 0.. {
        let steps = plan(round, &mut random);
        say(&format!("plan: {}", told(&steps)));
        for (number, step) in steps.into_iter().enumerate() {
            if number % SAID_EVERY == SAID_EVERY - 1 {
                say(&progress(&chaos));
            }
            if let Err(error) = chaos.play(step).await {
                world.complaints.borrow_mut().push(format!("{:?}: {error:#}", step.fault));
                break 'rounds;
            }
        }
        let left = size.kills.saturating_sub(chaos.kills);
        match size.duration {
            Some(duration) if world.begun.elapsed() < duration => say(&progress(&chaos)),
            None if left > 0 && tried < TRIES => {
                let commands = size.commands * left / size.kills.max(1);
                round = Size { kills: left, commands, database_crashes: 0, broker_crashes: 0, ..size };
            }
            _ => break,
        }
    }
    let kills = chaos.kills;
    let (programs, _links) = chaos.fleet.into_programs();
    if size.duration.is_none() {
        world.expect("kills that met work in flight", &(kills >= size.kills), &true);
    }
    world.expect("failed attempts", &world.failed_attempts().await?, &0);
    let mut verdict = world.finish(programs).await?;
    verdict.injected = format!("{INJECTED} {}", size.seed);
    Ok(verdict)
}

fn progress(chaos: &Chaos<'_, '_>) -> String {
    let (commands, elapsed) = (chaos.world.upstream.attempts(), chaos.world.begun.elapsed());
    format!("{} kills, {commands} commands in {} s", chaos.kills, elapsed.as_secs())
}

/// Waits until everything that was sent is done, and nobody is under suspicion.
async fn all_done(world: &World<'_>) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    let attempted = i64::try_from(world.upstream.attempts())?;
    until_is("all is handled", DONE_WITHIN, &attempted, async || world.handled().await).await?;
    let suspects = async || world.count("select count(*) from message_starts").await;
    until_is("nobody is under suspicion", DONE_WITHIN, &0, suspects).await?;
    Ok(begin.elapsed())
}

//! Would the checker notice? The program makes four mistakes on purpose, and each must be found for what it is.

use allocation::crash_points::SeededBug;

use super::{bystanders, relay_deaths, worker_deaths};
use crate::{lab::Lab, verdict::Verdict, world::World};

/// So many events has the scenario about their removal; more repeats than these do not come of the death in it.
const EVENTS: usize = 40;

/// For each mistake a scenario plays that holds without it.
pub(super) async fn planted_bugs(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "planted_bugs").await?;
    for bug in SeededBug::ALL {
        lab.plant(Some(*bug));
        let played = match bug {
            SeededBug::AckBeforeCommit => worker_deaths::killed_before_commit(lab).await,
            SeededBug::ForgetToRemove => relay_deaths::relay_killed_before_removal(lab).await,
            SeededBug::InboxApart => worker_deaths::killed_mid_handler(lab).await,
            SeededBug::IgnoreInbox => bystanders::duplicates(lab).await,
        };
        lab.plant(None);
        let found = match played {
            Ok(verdict) => found(*bug, &verdict),
            // A scenario that breaks off has noticed nothing.
            Err(error) => Err(format!("{error:#}")),
        };
        match found {
            Ok(proof) => world.hit(format!("{}: {proof}", bug.name())),
            Err(other) => {
                world.complaints.borrow_mut().push(format!("nobody noticed {}: {other}", bug.name()));
            }
        }
    }
    world.finish(Vec::new()).await
}

/// How a verdict shows a mistake; if it does not, what it says instead. Waits that took too long are no proof.
fn found(bug: SeededBug, verdict: &Verdict) -> Result<String, String> {
    let Verdict { scenario, lost, double, duplicates, complaints, .. } = verdict;
    let left = complaints.iter().any(|complaint| complaint.ends_with(" events in the outbox"));
    let proof = match bug {
        SeededBug::AckBeforeCommit | SeededBug::InboxApart => {
            (!lost.is_empty()).then(|| format!("{} lost", lost.len()))
        }
        SeededBug::ForgetToRemove => {
            (*duplicates > EVENTS && left).then(|| format!("{duplicates} published again"))
        }
        SeededBug::IgnoreInbox => (!double.is_empty()).then(|| format!("{} double", double.len())),
    };
    match proof {
        Some(proof) => Ok(format!("{scenario} says {proof}")),
        None => Err(format!("{scenario} says {:?}", verdict.violations())),
    }
}

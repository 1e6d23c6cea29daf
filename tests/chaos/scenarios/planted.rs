//! Would the checker notice? The program makes three mistakes on purpose, and each must be found.

use allocation::crash_points::PlantedBug;

use super::{relay_deaths, worker_deaths};
use crate::{lab::Lab, verdict::Verdict, world::World};

/// For each mistake a scenario plays that holds without it.
pub(super) async fn planted_bugs(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "planted_bugs").await?;
    for bug in PlantedBug::ALL {
        lab.plant(Some(*bug));
        let played = match bug {
            PlantedBug::AckBeforeCommit => worker_deaths::killed_before_commit(lab).await,
            PlantedBug::ForgetToRemove => relay_deaths::relay_killed_before_removal(lab).await,
            PlantedBug::InboxApart => worker_deaths::killed_mid_handler(lab).await,
        };
        lab.plant(None);
        // It must have been played to its end: a scenario that breaks off has noticed nothing.
        let verdict = played?;
        match verdict.violations().first() {
            Some(violation) => {
                let violation: String = violation.chars().take(60).collect();
                world.hit(format!("{}: {} says {violation}", bug.name(), verdict.scenario));
            }
            None => world.complaints.borrow_mut().push(format!(
                "{} noticed nothing of {}",
                verdict.scenario,
                bug.name()
            )),
        }
    }
    world.finish(Vec::new()).await
}

//! Tests the checker itself: the program has one of the seeded bugs, and each must be detected by the matching
//! finding.

use allocation::faults::SeededBug;

use super::{interference, liveness, relay_crashes, worker_crashes};
use crate::{check_report::CheckReport, cluster::Cluster, test_system::TestSystem};

/// The number of events in the removal scenario. More repetitions than these are not caused by its crash.
const EVENTS: usize = 40;

/// For each bug, runs a scenario that passes without it.
pub(super) async fn seeded_bugs(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "seeded_bugs").await?;
    for bug in SeededBug::ALL {
        cluster.seed_bug(Some(*bug));
        let result = match bug {
            SeededBug::AckBeforeCommit => worker_crashes::killed_before_commit(cluster).await,
            SeededBug::ForgetToRemove => relay_crashes::relay_killed_before_removal(cluster).await,
            SeededBug::InboxApart => worker_crashes::killed_mid_handler(cluster).await,
            SeededBug::IgnoreInbox => interference::duplicates(cluster).await,
            SeededBug::RelayDeadlock => liveness::stalled_relay(cluster).await,
        };
        cluster.seed_bug(None);
        let detected = match result {
            Ok(report) => detected(*bug, &report),
            // An aborted scenario has detected nothing.
            Err(error) => Err(format!("{error:#}")),
        };
        match detected {
            Ok(proof) => system.add_evidence(format!("{}: {proof}", bug.name())),
            Err(finding) => {
                system.violations.borrow_mut().push(format!("{} was not detected: {finding}", bug.name()));
            }
        }
    }
    system.finish(Vec::new()).await
}

/// How a report shows a bug, or what it contains instead. A timeout is no evidence.
fn detected(bug: SeededBug, report: &CheckReport) -> Result<String, String> {
    let CheckReport { scenario, lost, repeated, duplicates, violations, .. } = report;
    let outbox_left = violations.iter().any(|violation| violation.ends_with(" events in the outbox"));
    let proof = match bug {
        SeededBug::AckBeforeCommit | SeededBug::InboxApart => {
            (!lost.is_empty()).then(|| format!("{} lost", lost.len()))
        }
        SeededBug::ForgetToRemove => {
            (*duplicates > EVENTS && outbox_left).then(|| format!("{duplicates} published again"))
        }
        SeededBug::IgnoreInbox => (!repeated.is_empty()).then(|| format!("{} repeated", repeated.len())),
        SeededBug::RelayDeadlock => report.is_clean().then(|| "not live, and replaced".to_owned()),
    };
    match proof {
        Some(proof) => Ok(format!("{scenario}: {proof}")),
        None => Err(format!("{scenario}: {:?}", report.findings())),
    }
}

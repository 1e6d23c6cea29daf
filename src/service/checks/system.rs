//! Checks of the processes, of what waits, and of the settings.

use std::{collections::BTreeSet, time::Duration};

use crate::ports::{
    checks::{InspectedSettings, Inspection, StoredBacklog},
    processes::{ProcessRow, ROLES},
};

use super::{
    check::{Check, CheckStatus},
    database::named,
};

const ROLES_RUN: (&str, &str) = ("processes.roles", "a process with each role");
const VERSIONS: (&str, &str) = ("processes.versions", "one version");
const LEADER: (&str, &str) = ("processes.leader", "one relay leads");
const RETRIES: (&str, &str) = ("failed_messages.retries", "the broker accepts all retries");
const OUTBOX: (&str, &str) = ("outbox.events", "no parked event, and none that waits for more than a minute");
const RETENTION: (&str, &str) = ("retention.inbox", "expired rows are removed within an hour");
/// The api is optional.
const OPTIONAL_ROLE: &str = "api";
/// The age at which the alert of old events fires.
const OLD_EVENT: Duration = Duration::from_mins(1);
const OVERDUE: Duration = Duration::from_hours(1);

pub(super) fn checks(inspected: &Inspection) -> Vec<Check> {
    let running = inspected.processes.as_ref().map_err(Clone::clone).map(|processes| {
        let running = processes.iter().filter(|process| process.status == "running");
        running.collect::<Vec<_>>()
    });
    let mut checks = vec![
        Check::of(ROLES_RUN.0, ROLES_RUN.1, &running, |running| roles(running)),
        Check::of(VERSIONS.0, VERSIONS.1, &running, |running| versions(running)),
        Check::of(LEADER.0, LEADER.1, &inspected.relay_leads, |leads| leader(*leads)),
        Check::of(RETRIES.0, RETRIES.1, &inspected.backlog, retries),
        Check::of(OUTBOX.0, OUTBOX.1, &inspected.backlog, outbox),
        Check::of(RETENTION.0, RETENTION.1, &inspected.backlog, retention),
    ];
    checks.extend(settings(&inspected.settings));
    checks
}

fn roles(running: &[&ProcessRow]) -> Check {
    let has = |role: &str| running.iter().any(|process| process.roles.iter().any(|has| has == role));
    let missing: Vec<_> = ROLES.into_iter().filter(|role| *role != OPTIONAL_ROLE && !has(role)).collect();
    if missing.is_empty() {
        return Check::ok(ROLES_RUN.0, ROLES_RUN.1, format!("{} processes have them all", running.len()));
    }
    let found = format!("no process has the role {}", missing.join(", "));
    let start = format!("; start one: allocation run --only {}", missing.join(","));
    Check::new(ROLES_RUN.0, ROLES_RUN.1, CheckStatus::Failed, found + &start)
}

fn versions(running: &[&ProcessRow]) -> Check {
    let versions: BTreeSet<_> = running.iter().map(|process| process.version.as_str()).collect();
    let status = if versions.len() > 1 { CheckStatus::Warning } else { CheckStatus::Ok };
    if status == CheckStatus::Ok {
        return Check::ok(VERSIONS.0, VERSIONS.1, versions.into_iter().collect::<String>());
    }
    let found = named(running.iter().map(|process| format!("{} has {}", process.name, process.version)));
    Check::new(VERSIONS.0, VERSIONS.1, status, found)
}

fn leader(leads: bool) -> Check {
    if leads {
        return Check::ok(LEADER.0, LEADER.1, "one leads");
    }
    let found = "none leads; if no relay runs, start one: allocation run --only relay";
    Check::new(LEADER.0, LEADER.1, CheckStatus::Failed, found)
}

fn retries(backlog: &StoredBacklog) -> Check {
    if backlog.held_retries == 0 {
        return Check::ok(RETRIES.0, RETRIES.1, "none is held");
    }
    let found = format!("{} are held: allocation dead-letters list --status retrying", backlog.held_retries);
    Check::new(RETRIES.0, RETRIES.1, CheckStatus::Failed, found)
}

fn outbox(backlog: &StoredBacklog) -> Check {
    if backlog.parked_events > 0 {
        let found = format!("{} events are parked: allocation outbox list", backlog.parked_events);
        let retry = "allocation outbox retry --all".to_owned();
        return Check::new(OUTBOX.0, OUTBOX.1, CheckStatus::Failed, found).fixed_by([retry]);
    }
    let age = backlog.oldest_event.as_secs();
    let is_old = backlog.oldest_event > OLD_EVENT;
    let status = if is_old { CheckStatus::Failed } else { CheckStatus::Ok };
    Check::new(OUTBOX.0, OUTBOX.1, status, format!("the oldest event waits for {age} s"))
}

fn retention(backlog: &StoredBacklog) -> Check {
    let hours = backlog.expired_for.as_secs() / 3600;
    let status = if backlog.expired_for > OVERDUE { CheckStatus::Failed } else { CheckStatus::Ok };
    let found = format!("the oldest row is {hours} h beyond retention.inbox");
    Check::new(RETENTION.0, RETENTION.1, status, found)
}

fn settings(settings: &InspectedSettings) -> Vec<Check> {
    let list = |check: &'static str, wanted: &'static str, found: &[String]| {
        if found.is_empty() {
            Check::ok(check, wanted, "none")
        } else {
            Check::new(check, wanted, CheckStatus::Warning, named(found.iter().cloned()))
        }
    };
    let metrics = if settings.has_metrics { CheckStatus::Ok } else { CheckStatus::Warning };
    let metrics_found =
        if settings.has_metrics { "metrics.listen is set" } else { "metrics.listen is empty" };
    let traces = if settings.traces_endpoint.is_empty() { "no traces" } else { "traces.endpoint is set" };
    vec![
        list("settings.passwords", "no password that others could read", &settings.exposed_passwords),
        list("settings.contradictions", "no contradiction", &settings.contradictions),
        Check::new("metrics", "metrics can be scraped", metrics, metrics_found),
        Check::ok("traces", "optional", traces),
    ]
}

//! Reasons inside of the program: processes, messages, locks, and the relay.

use crate::ports::{
    diagnosis::{BrokerQueue, InterruptedMessage, LockHolder, QueueObservations},
    processes::ProcessRow,
};

use super::{
    consumers::{consumers, queue_work, role_of},
    reason::{Finding, ReasonCode, Verdict},
};

/// One unfinished start is also that of a process that was killed from outside.
const SUSPECT_STARTS: u32 = 2;

pub(super) fn no_worker(observed: &QueueObservations) -> Verdict {
    let (running, queue) = (consumers(observed)?, observed.queue.as_str());
    let why_not = |process: &&&ProcessRow| {
        process.state.not_consuming.iter().any(|waiting| waiting.queue == queue && !waiting.error.is_empty())
    };
    if running.iter().any(|process| !why_not(&process)) {
        return Ok(None);
    }
    let role = role_of(observed.queue);
    if running.is_empty() {
        let fix = format!("start one: allocation run --only {role}");
        let lost = lost_processes(observed, role);
        let evidence = format!("no process with the role {role} runs{lost}");
        return Ok(Some(Finding::new(ReasonCode::NoWorker, evidence, fix)));
    }
    let why = running.iter().flat_map(|process| {
        let waiting = process.state.not_consuming.iter().filter(|waiting| waiting.queue == queue);
        waiting.map(|waiting| format!("{} does not consume: {}", process.name, waiting.error))
    });
    let evidence = why.collect::<Vec<_>>().join("; ");
    let fix = "remove the reason on the left; the processes subscribe by themselves";
    Ok(Some(Finding::new(ReasonCode::NoWorker, evidence, fix)))
}

fn lost_processes(observed: &QueueObservations, role: &str) -> String {
    let processes = observed.processes.as_deref().unwrap_or_default().iter();
    let lost =
        processes.filter(|process| process.status == "lost" && process.roles.iter().any(|r| r == role));
    let lost: Vec<_> =
        lost.map(|process| format!("{} was last seen {}", process.name, process.seen_at)).collect();
    if lost.is_empty() { String::new() } else { format!("; {}", lost.join("; ")) }
}

pub(super) fn breaking_message(observed: &QueueObservations) -> Verdict {
    let interrupted = observed.work.clone()?.interrupted;
    let suspect = interrupted.filter(|message| message.starts >= SUSPECT_STARTS);
    Ok(suspect.map(|InterruptedMessage { message_id, starts, started_at }| {
        // The first delivery of a message is not recorded.
        let crashes = starts + 1;
        let evidence = format!("message {message_id}: its handling ended with the process at least {crashes} times");
        let fix = "wait: after five such ends it is dead (crash_loop) and the queue goes on. Read the log of the processes \
                   for the cause";
        Finding::new(ReasonCode::BreakingMessage, evidence, fix).since(Some(started_at))
    }))
}

pub(super) fn stuck_handler(observed: &QueueObservations) -> Verdict {
    let limit = observed.stalled_after.as_secs();
    let stuck: Vec<_> = consumers(observed)?
        .into_iter()
        .filter_map(|process| Some((process, longest(observed, process).filter(|busy| *busy > limit)?)))
        .map(|(process, busy)| format!("{} works on one batch for {busy} s", process.name))
        .collect();
    let fix = "end the process with SIGTERM: its messages return to the queue in their order, and another process handles them";
    Ok((!stuck.is_empty()).then(|| Finding::new(ReasonCode::StuckHandler, stuck.join("; "), fix)))
}

/// How long the partition of a process that is busy for longest is, in seconds.
fn longest(observed: &QueueObservations, process: &ProcessRow) -> Option<u64> {
    let busy = process.state.busy.iter().filter(|busy| busy.queue == observed.queue.as_str());
    busy.map(|busy| busy.seconds).max()
}

pub(super) fn lock_wait(observed: &QueueObservations) -> Verdict {
    let holders = observed.lock_holders.clone()?;
    let postponed = observed.work.as_ref().map_or(0, |work| work.postponed_by_lock);
    let waiting = holders.iter().any(|holder| holder.waiting > 0);
    if !waiting && postponed == 0 {
        return Ok(None);
    }
    let sessions: Vec<_> = holders.iter().map(description).collect();
    let sessions = if sessions.is_empty() {
        "the session that holds the lock is not visible, or has ended".to_owned()
    } else {
        sessions.join("; ")
    };
    let evidence = format!("{postponed} messages were postponed by a lock; {sessions}");
    let fix = match holders.first() {
        Some(LockHolder { pid, since: Some(_), .. }) => {
            format!("ask its owner to end the transaction, or: select pg_terminate_backend({pid})")
        }
        _ => "ask the administrator of the database: this role may not see the session".into(),
    };
    let since = holders.first().and_then(|holder| holder.since);
    Ok(Some(Finding::new(ReasonCode::LockWait, evidence, fix).since(since)))
}

fn description(holder: &LockHolder) -> String {
    let LockHolder { pid, application, state, waiting, .. } = holder;
    let state = state.as_deref().unwrap_or("state not visible to this role");
    format!(
        "session {pid} (application {application:?}, {state}) holds locks, {waiting} sessions wait for it"
    )
}

pub(super) fn relay_missing(observed: &QueueObservations) -> Verdict {
    let finding = Finding::new(
        ReasonCode::RelayMissing,
        "no relay leads: events and retries are not published",
        "start one: allocation run --only relay",
    );
    Ok((!observed.work.clone()?.relay_leads).then_some(finding))
}

pub(super) fn event_refused(observed: &QueueObservations) -> Verdict {
    let work = observed.work.clone()?;
    if work.parked > 0 {
        let evidence = format!("the broker rejected {} events; later ones of their SKUs wait", work.parked);
        let fix = "allocation outbox list, remove the cause, then allocation outbox retry --all";
        return Ok(Some(Finding::new(ReasonCode::EventRefused, evidence, fix)));
    }
    if work.nacked_events.is_empty() {
        return Ok(None);
    }
    let names = work.nacked_events.join(", ");
    let evidence = format!("the broker nacks {names}: the queue of a subscriber is full");
    let fix = "consume or unbind the full queue of the subscriber";
    Ok(Some(Finding::new(ReasonCode::EventRefused, evidence, fix).since(work.nacked_since)))
}

pub(super) fn retries_held(observed: &QueueObservations) -> Verdict {
    let work = observed.work.clone()?;
    let because = work.held_because.unwrap_or_default();
    let evidence = format!("{} retries: the broker does not accept them: {because}", work.held);
    let fix = "remove the reason on the left; they are published again every five seconds";
    Ok((work.held > 0).then(|| Finding::new(ReasonCode::RetriesHeld, evidence, fix)))
}

pub(super) fn retries_waiting(observed: &QueueObservations) -> Verdict {
    let work = observed.work.clone()?;
    let next = work.next_due.map(|due| format!(", the next at {due}")).unwrap_or_default();
    let evidence = format!(
        "{} messages wait for their next attempt{next}; {} wait for an earlier one of their line or batch",
        work.retrying, work.waiting
    );
    let fix = "nothing; to see their errors: allocation dead-letters list --status retrying";
    let is_found = work.retrying + work.waiting > 0;
    Ok(is_found.then(|| Finding::new(ReasonCode::RetriesWaiting, evidence, fix)))
}

pub(super) fn busy(observed: &QueueObservations) -> Verdict {
    let work = queue_work(observed)?;
    if work.unacknowledged == 0 && work.finished_last_minute == 0 {
        return Ok(None);
    }
    let longest = consumers(observed)?.into_iter().filter_map(|process| longest(observed, process)).max();
    let longest = longest.map(|busy| format!("; the longest batch takes {busy} s")).unwrap_or_default();
    let evidence = format!(
        "{} messages were handled within the last minute, {} are being handled or wait for that in a process{longest}",
        work.finished_last_minute, work.unacknowledged
    );
    Ok(Some(Finding::new(ReasonCode::Busy, evidence, "nothing")))
}

pub(super) fn idle(observed: &QueueObservations) -> Verdict {
    let is_empty = matches!(observed.broker_queue()?, BrokerQueue::Exists { ready: 0, .. });
    let is_idle = is_empty && queue_work(observed)?.unacknowledged == 0;
    let evidence =
        "no message is in the queue, and no process had one when it last reported, a few seconds ago";
    Ok(is_idle.then(|| Finding::new(ReasonCode::Idle, evidence, "nothing")))
}

pub(super) fn unexplained(observed: &QueueObservations, found: &[Finding]) -> Verdict {
    let BrokerQueue::Exists { ready: ready @ 1.., consumers } = observed.broker_queue()? else {
        return Ok(None);
    };
    let is_explained = found.iter().any(|found| found.code.stops_the_queue());
    if queue_work(observed)?.finished_last_minute > 0 || is_explained {
        return Ok(None);
    }
    let evidence = format!(
        "{ready} messages wait, the queue has {consumers} consumers, and none was handled within the last minute"
    );
    let fix = "read the log of a process that consumes the queue; if it is silent, end it with SIGTERM and start it again";
    Ok(Some(Finding::new(ReasonCode::Unexplained, evidence, fix)))
}

//! Reasons inside of the program: processes, messages, locks, and the relay.

use std::{cmp::Reverse, time::Duration};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::ports::{
    diagnosis::{BrokerQueue, InterruptedMessage, LockHolder, Locks, QueueObservations},
    processes::{MESSAGES_RETURNED, ProcessRow, STORAGE_FULL},
};

use super::{
    consumers::{consumers, queue_work, role_of},
    reason::{Finding, NOTHING, ReasonCode, Verdict},
};

/// Fewer unfinished starts are also those of processes that were killed from outside.
const SUSPECT_STARTS: u32 = 3;
/// A relay publishes what is due at once. In the meantime it may have changed.
const UNPUBLISHED_AFTER: Duration = Duration::from_mins(1);
/// A batch that takes longer while nothing is finished is no progress, in seconds.
const LONG_BATCH: u64 = 10;
/// Of many processes, so many are named.
const NAMED_PROCESSES: usize = 3;

pub(super) fn no_worker(observed: &QueueObservations) -> Verdict {
    let (running, role) = (consumers(observed)?, role_of(observed.queue));
    let found = |evidence: String, fix: &str| Ok(Some(Finding::new(ReasonCode::NoWorker, evidence, fix)));
    if running.is_empty() {
        let lost = lost_processes(observed, role);
        let start = format!("start one: allocation run --only {role}");
        return if lost.is_empty() {
            found(format!("no process with the role {role} runs"), &start)
        } else {
            found(
                format!("no process with the role {role} reports itself; {lost}"),
                &format!(
                    "look at these processes: each ended, is frozen, or cannot use the database. If none runs, {start}"
                ),
            )
        };
    }
    let reasons: Vec<_> = running.iter().filter_map(|process| why_not(observed, process)).collect();
    if reasons.len() == running.len() {
        let fix = "remove the reason that is named here; the processes subscribe by themselves";
        return found(reasons.join("; "), fix);
    }
    let is_subscribed = reasons.is_empty() && running.iter().any(|process| has_subscribed(observed, process));
    match observed.broker_queue() {
        Ok(BrokerQueue::Exists { consumers: 0, ready }) if is_subscribed => found(
            format!(
                "the broker counts {ready} messages and no consumer of the queue, although {} processes report one",
                running.len()
            ),
            "ask again after 15 s: the processes may have just ended. If it stays so, the queue has no leader: rabbitmqctl \
             list_queues name state, and repair the nodes of the broker",
        ),
        _ => Ok(None),
    }
}

/// Why a process does not consume the queue; none if it does, or if a server that it waits for is the reason.
fn why_not(observed: &QueueObservations, process: &ProcessRow) -> Option<String> {
    let mut waiting = process.state.not_consuming.iter();
    let waiting = waiting.find(|waiting| waiting.queue == observed.queue.as_str())?;
    let waits_for_server = waiting.error == MESSAGES_RETURNED && !process.state.unavailable.is_empty();
    let is_explained = waiting.error.is_empty() || waiting.error == STORAGE_FULL || waits_for_server;
    (!is_explained).then(|| format!("{} does not consume: {}", process.name, waiting.error))
}

fn has_subscribed(observed: &QueueObservations, process: &ProcessRow) -> bool {
    let queue = observed.queue.as_str();
    let has_work = process.state.queues.iter().any(|work| work.queue == queue);
    has_work && !process.state.not_consuming.iter().any(|waiting| waiting.queue == queue)
}

fn lost_processes(observed: &QueueObservations, role: &str) -> String {
    let processes = observed.processes.as_deref().unwrap_or_default().iter();
    let mut lost: Vec<_> = processes
        .filter(|process| process.status == "lost" && process.roles.iter().any(|has| has == role))
        .collect();
    lost.sort_by_key(|process| Reverse(process.seen_at));
    let named = lost.iter().take(NAMED_PROCESSES);
    let named = named.map(|process| format!("{} did so last at {}", process.name, time(process.seen_at)));
    named.collect::<Vec<_>>().join("; ")
}

fn time(at: OffsetDateTime) -> String {
    at.replace_nanosecond(0).unwrap_or(at).format(&Rfc3339).unwrap_or_default()
}

pub(super) fn breaking_message(observed: &QueueObservations) -> Verdict {
    let interrupted = observed.work.clone()?.interrupted;
    let suspect = interrupted.filter(|message| message.starts >= SUSPECT_STARTS);
    Ok(suspect.map(|InterruptedMessage { message_id, starts, started_at }| {
        let evidence = format!(
            "message {message_id}: its handling began {starts} times and did not end, because its process crashed or was killed"
        );
        let fix = "read in the log of the supervisor how the processes ended. If the message is the cause, wait: after five such \
                   ends it is dead (crash_loop) and the queue goes on";
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
    let Locks { holders, has_hidden_sessions } = observed.locks.clone()?;
    let postponed = observed.work.as_ref().map_or(0, |work| work.postponed_by_lock);
    if postponed == 0 && !holders.iter().any(|holder| holder.waiting > 0) {
        let hidden = "this role may not see what other sessions wait for (pg_read_all_stats)";
        return if has_hidden_sessions { Err(hidden.into()) } else { Ok(None) };
    }
    let sessions: Vec<_> = holders.iter().map(description).collect();
    let sessions = match (sessions.is_empty(), has_hidden_sessions) {
        (false, _) => sessions.join("; "),
        (true, true) => "this role may not see the session that holds it (pg_read_all_stats)".into(),
        (true, false) => "the session that held it has ended".into(),
    };
    let evidence =
        format!("{postponed} messages were postponed by a lock within the last minute; {sessions}");
    let since = holders.first().and_then(|holder| holder.since);
    Ok(Some(Finding::new(ReasonCode::LockWait, evidence, lock_fix(&holders)).since(since)))
}

/// The command that ends a session is given only for one that is certainly the cause: others would lose their work.
fn lock_fix(holders: &[LockHolder]) -> String {
    let certain = match holders {
        [only] => Some(only),
        several => several.iter().find(|holder| holder.waiting > 0 && !holder.is_waiting),
    };
    match certain {
        Some(LockHolder { pid, .. }) => {
            format!("ask its owner to end the transaction, or: select pg_terminate_backend({pid})")
        }
        None if holders.is_empty() => {
            "ask the administrator of the database which session holds locks".into()
        }
        None => "one of these sessions holds the lock: ask their owners to end their transactions".into(),
    }
}

fn description(holder: &LockHolder) -> String {
    let LockHolder { pid, application, state, waiting, .. } = holder;
    let state = state.as_deref().unwrap_or("unknown state");
    format!(
        "session {pid} (application {application:?}, {state}) holds locks, {waiting} sessions wait for it"
    )
}

pub(super) fn relay_missing(observed: &QueueObservations) -> Verdict {
    let work = observed.work.clone()?;
    if !work.relay_leads {
        let evidence = "no relay leads: events and retries are not published";
        let fix = "start one: allocation run --only relay";
        return Ok(Some(Finding::new(ReasonCode::RelayMissing, evidence, fix)));
    }
    let waits = work.retries_overdue.max(work.oldest_event);
    let is_refused = work.parked > 0 || !work.nacked_events.is_empty() || work.held > 0;
    if waits < UNPUBLISHED_AFTER || is_refused {
        return Ok(None);
    }
    let evidence = format!("a relay leads, and what could be published waits for {} s", waits.as_secs());
    let fix = "allocation status names its session: the process is frozen, or cannot reach the broker. End it with SIGTERM, \
               or with SIGKILL if it does not end; another one takes over";
    Ok(Some(Finding::new(ReasonCode::RelayMissing, evidence, fix)))
}

pub(super) fn event_refused(observed: &QueueObservations) -> Verdict {
    let work = observed.work.clone()?;
    let (mut evidence, mut fix) = (Vec::new(), Vec::new());
    if !work.nacked_events.is_empty() {
        let names = work.nacked_events.join(", ");
        evidence.push(format!("the broker nacks {names}: the queue of a subscriber is full"));
        fix.push("consume the full queue; if its subscriber may miss these events, unbind it");
    }
    if work.parked > 0 {
        evidence.push(format!("the broker rejected {} events; later ones of their SKUs wait", work.parked));
        fix.push("allocation outbox list, remove the cause, then allocation outbox retry --all");
    }
    let is_found = !evidence.is_empty();
    let finding = Finding::new(ReasonCode::EventRefused, evidence.join("; "), fix.join("; "));
    Ok(is_found.then(|| finding.since(work.nacked_since)))
}

pub(super) fn retries_held(observed: &QueueObservations) -> Verdict {
    let work = observed.work.clone()?;
    let because = work.held_because.unwrap_or_default();
    let evidence = format!("{} retries: the broker does not accept them: {because}", work.held);
    let fix = "remove the reason that is named here; they are published again every five seconds";
    Ok((work.held > 0).then(|| Finding::new(ReasonCode::RetriesHeld, evidence, fix)))
}

pub(super) fn retries_waiting(observed: &QueueObservations) -> Verdict {
    let work = observed.work.clone()?;
    let next = work.next_due.map(|due| format!(", the next at {}", time(due))).unwrap_or_default();
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
    if work.finished_last_minute == 0 {
        return Ok(None);
    }
    let evidence = format!(
        "{} messages were handled within the last minute, {} are being handled or wait for that in a process",
        work.finished_last_minute, work.unacknowledged
    );
    Ok(Some(Finding::new(ReasonCode::Busy, evidence, NOTHING)))
}

pub(super) fn idle(observed: &QueueObservations) -> Verdict {
    let is_empty = matches!(observed.broker_queue()?, BrokerQueue::Exists { ready: 0, .. });
    let is_idle = is_empty && queue_work(observed)?.unacknowledged == 0;
    let evidence =
        "no message is in the queue, and no process had one when it last reported, a few seconds ago";
    Ok(is_idle.then(|| Finding::new(ReasonCode::Idle, evidence, NOTHING)))
}

pub(super) fn unexplained(observed: &QueueObservations, found: &[Finding]) -> Verdict {
    let BrokerQueue::Exists { ready, consumers: count } = observed.broker_queue()? else { return Ok(None) };
    let work = queue_work(observed)?;
    let busy = consumers(observed)?.into_iter().filter_map(|process| longest(observed, process)).max();
    let waits = ready > 0 || busy.is_some_and(|busy| busy >= LONG_BATCH);
    let is_explained = found.iter().any(|found| found.code.stops_the_queue());
    if work.finished_last_minute > 0 || is_explained || !waits {
        return Ok(None);
    }
    let busy = busy.map(|busy| format!("; a process works on one batch for {busy} s")).unwrap_or_default();
    let evidence = format!(
        "{ready} messages are in the queue and {} in processes, the queue has {count} consumers, and none was handled within \
         the last minute{busy}",
        work.unacknowledged
    );
    let fix = "read the log of a process that consumes the queue; if it is silent, end it with SIGTERM and start it again";
    Ok(Some(Finding::new(ReasonCode::Unexplained, evidence, fix)))
}

//! Each reason is found from what was observed, and nothing else with it.

use std::time::Duration;

use time::macros::datetime;

use super::*;
use crate::ports::{
    diagnosis::{
        BrokerCondition, BrokerQueue, DatabaseCondition, InterruptedMessage, LockHolder, Locks, QueueBacklog,
        QueueObservations,
    },
    processes::{
        BusyPartition, MESSAGES_RETURNED, ProcessRow, ProcessState, QueueWork, STORAGE_FULL,
        UnavailableServer, UnconsumedQueue,
    },
    queue::QueueName,
};

fn worker(state: ProcessState) -> ProcessRow {
    ProcessRow {
        name: "app-1:7".into(),
        version: "0.2.0".into(),
        roles: vec!["worker".into()],
        started_at: datetime!(2026-11-27 02:00 UTC),
        seen_at: datetime!(2026-11-27 03:00 UTC),
        status: "running",
        state,
    }
}

fn work(unacknowledged: u64, finished_last_minute: u64) -> Vec<QueueWork> {
    vec![QueueWork { queue: "orders".into(), unacknowledged, finished_last_minute }]
}

/// A queue with messages that are handled.
fn moving() -> QueueObservations {
    QueueObservations {
        queue: QueueName::Orders,
        database: Ok(DatabaseCondition::Usable),
        broker: Ok(BrokerCondition {
            queue: Ok(BrokerQueue::Exists { ready: 600, consumers: 1 }),
            alarm: Ok(false),
        }),
        processes: Ok(vec![worker(ProcessState { queues: work(500, 6000), ..ProcessState::default() })]),
        locks: Ok(Locks::default()),
        work: Ok(QueueBacklog { relay_leads: true, ..QueueBacklog::default() }),
        stalled_after: Duration::from_mins(5),
    }
}

fn with_state(change: impl FnOnce(&mut ProcessState)) -> QueueObservations {
    let mut observed = moving();
    change(&mut observed.processes.as_mut().unwrap()[0].state);
    observed
}

fn with_backlog(change: impl FnOnce(&mut QueueBacklog)) -> QueueObservations {
    let mut observed = moving();
    change(observed.work.as_mut().unwrap());
    observed
}

fn with_queue(queue: BrokerQueue) -> QueueObservations {
    let mut observed = moving();
    observed.broker.as_mut().unwrap().queue = Ok(queue);
    observed
}

fn with_processes(processes: Vec<ProcessRow>) -> QueueObservations {
    QueueObservations { processes: Ok(processes), ..moving() }
}

fn codes(observed: &QueueObservations) -> Vec<&'static str> {
    let diagnosis = diagnose("allocation", observed);
    let all = diagnosis.reasons.len() + diagnosis.ruled_out.len() + diagnosis.not_known.len();
    assert_eq!(all, ReasonCode::ALL.len(), "each reason is found, ruled out or not known");
    diagnosis.reasons.iter().map(|found| found.code.as_str()).collect()
}

fn unavailable(server: &str, error: &str) -> QueueObservations {
    let report = UnavailableServer { server: server.into(), seconds: 9, error: error.into() };
    with_state(|state| state.unavailable.push(report))
}

fn not_consuming(error: &str) -> QueueObservations {
    let queue = UnconsumedQueue { queue: "orders".into(), error: error.into() };
    with_state(|state| state.not_consuming.push(queue))
}

fn holder(waiting: u64) -> LockHolder {
    LockHolder {
        pid: 42,
        application: "psql".into(),
        state: Some("idle in transaction".into()),
        since: Some(datetime!(2026-11-27 02:00 UTC)),
        waiting,
        is_waiting: false,
    }
}

fn locked_by(holders: Vec<LockHolder>) -> QueueObservations {
    QueueObservations { locks: Ok(Locks { holders, has_hidden_sessions: false }), ..moving() }
}

#[test]
fn a_queue_that_is_handled_moves() {
    let diagnosis = diagnose("allocation", &moving());
    assert_eq!(codes(&moving()), ["busy"]);
    assert!(diagnosis.is_well());
    assert_eq!(diagnosis.queue, "allocation.orders");
    assert_eq!((diagnosis.ready, diagnosis.consumers), (Some(600), Some(1)));
    assert_eq!((diagnosis.unacknowledged, diagnosis.moving), (Some(500), Some(true)));
    assert_eq!(diagnosis.handled_per_second, Some(100.0));
    assert_eq!(diagnosis.empty_in_seconds, Some(6.0));
}

#[test]
fn each_server_reason_is_found() {
    let database = |database| QueueObservations { database, ..moving() };
    assert_eq!(codes(&database(Ok(DatabaseCondition::ReadOnly))), ["database_away", "busy"]);
    assert_eq!(codes(&unavailable("database", "too many clients")), ["database_away", "busy"]);
    assert_eq!(codes(&database(Ok(DatabaseCondition::Unusable("old".into())))), ["schema_differs", "busy"]);
    let broker = QueueObservations { broker: Err("refused".into()), ..moving() };
    assert_eq!(codes(&broker), ["broker_away", "busy"]);
    assert_eq!(codes(&unavailable("broker", "refused")), ["broker_away", "busy"]);
    let mut alarm = moving();
    alarm.broker.as_mut().unwrap().alarm = Ok(true);
    assert_eq!(codes(&alarm), ["broker_alarm", "busy"]);
    assert_eq!(codes(&with_queue(BrokerQueue::Missing)), ["queue_missing", "busy"]);
    assert_eq!(codes(&not_consuming(STORAGE_FULL)), ["storage_full", "busy"]);
}

#[test]
fn a_missing_queue_is_no_outage_of_the_broker() {
    let mut observed = unavailable("broker", "NOT_FOUND - no queue 'allocation.orders'");
    observed.broker.as_mut().unwrap().queue = Ok(BrokerQueue::Missing);
    assert_eq!(codes(&observed), ["queue_missing", "busy"]);
}

#[test]
fn the_mail_server_counts_for_notifications_alone_and_its_outage_is_no_lack_of_processes() {
    let mut observed = unavailable("mail server", "refused");
    let state = &mut observed.processes.as_mut().unwrap()[0].state;
    let returned = UnconsumedQueue { queue: "notifications".into(), error: MESSAGES_RETURNED.into() };
    state.not_consuming.push(returned);
    assert_eq!(codes(&observed), ["busy"]);
    observed.queue = QueueName::Notifications;
    observed.processes.as_mut().unwrap()[0].roles = vec!["notifier".into()];
    assert_eq!(codes(&observed), ["mail_away"]);
}

#[test]
fn a_relay_that_cannot_use_the_broker_counts() {
    let mut observed = moving();
    let refused = UnavailableServer { server: "broker".into(), seconds: 9, error: "refused".into() };
    let state = ProcessState { unavailable: vec![refused], ..ProcessState::default() };
    let relay = ProcessRow { roles: vec!["relay".into()], ..worker(state) };
    observed.processes.as_mut().unwrap().push(relay);
    assert_eq!(codes(&observed), ["broker_away", "busy"]);
}

#[test]
fn without_a_process_nothing_is_handled() {
    let none = with_processes(Vec::new());
    assert_eq!(codes(&none), ["no_worker"]);
    assert!(!diagnose("allocation", &none).is_well());
    let lost = ProcessRow { status: "lost", ..worker(ProcessState::default()) };
    let diagnosis = diagnose("allocation", &with_processes(vec![lost]));
    assert_eq!(diagnosis.reasons[0].code, ReasonCode::NoWorker);
    assert!(
        diagnosis.reasons[0].evidence.contains("app-1:7 did so last at 2026-11-27T03:00:00Z"),
        "{diagnosis:?}"
    );
    let relay = ProcessRow { roles: vec!["relay".into()], ..worker(ProcessState::default()) };
    assert_eq!(codes(&with_processes(vec![relay])), ["no_worker"]);
    assert_eq!(codes(&not_consuming("ACCESS_REFUSED")), ["no_worker", "busy"]);
    assert_eq!(codes(&not_consuming("")), ["busy"], "it subscribes for the first time");
    let mut one_of_two = not_consuming("ACCESS_REFUSED");
    one_of_two.processes.as_mut().unwrap().push(worker(ProcessState::default()));
    assert_eq!(codes(&one_of_two), ["busy"]);
}

#[test]
fn a_message_that_began_three_times_without_an_end_is_suspected() {
    let starts = |starts| {
        with_backlog(|work| {
            let started_at = datetime!(2026-11-27 02:00 UTC);
            work.interrupted = Some(InterruptedMessage { message_id: "m-1".into(), starts, started_at });
        })
    };
    assert_eq!(codes(&starts(2)), ["busy"]);
    assert_eq!(codes(&starts(3)), ["breaking_message", "busy"]);
    let evidence = &diagnose("allocation", &starts(3)).reasons[0].evidence;
    assert!(evidence.contains("m-1: its handling began 3 times"), "{evidence}");
}

#[test]
fn a_handler_is_stuck_after_the_same_time_as_for_the_health_check() {
    let busy = |queue: &str, seconds| {
        with_state(|state| state.busy.push(BusyPartition { queue: queue.into(), seconds }))
    };
    assert_eq!(codes(&busy("orders", 300)), ["busy"]);
    assert_eq!(codes(&busy("stock", 301)), ["busy"]);
    assert_eq!(codes(&busy("orders", 301)), ["stuck_handler", "busy"]);
}

#[test]
fn a_lock_counts_if_someone_waits_for_it() {
    let mut observed = locked_by(vec![holder(0)]);
    assert_eq!(codes(&observed), ["busy"]);
    observed.work.as_mut().unwrap().postponed_by_lock = 3;
    assert_eq!(codes(&observed), ["lock_wait", "busy"]);
    assert_eq!(codes(&locked_by(vec![holder(1)])), ["lock_wait", "busy"]);
}

#[test]
fn only_the_session_that_is_certainly_the_cause_is_to_be_ended() {
    let fix = |holders| {
        let mut observed = locked_by(holders);
        observed.work.as_mut().unwrap().postponed_by_lock = 1;
        diagnose("allocation", &observed).reasons[0].fix.clone()
    };
    let other = |waiting, is_waiting| LockHolder { pid: 7, is_waiting, ..holder(waiting) };
    assert!(fix(vec![holder(0)]).contains("pg_terminate_backend(42)"), "it is the only one");
    assert!(!fix(vec![other(0, false), holder(0)]).contains("pg_terminate_backend"), "one of two");
    assert!(fix(vec![other(0, false), holder(1)]).contains("pg_terminate_backend(42)"), "others wait for it");
    assert!(
        fix(vec![other(5, true), holder(1)]).contains("pg_terminate_backend(42)"),
        "it holds up the other"
    );
    assert!(!fix(Vec::new()).contains("pg_terminate_backend"), "it is not seen");
}

#[test]
fn a_role_that_may_not_see_other_sessions_does_not_know_whether_they_wait() {
    let mut observed = moving();
    observed.locks.as_mut().unwrap().has_hidden_sessions = true;
    let diagnosis = diagnose("allocation", &observed);
    assert_eq!(
        diagnosis.not_known.iter().map(|reason| reason.code).collect::<Vec<_>>(),
        [ReasonCode::LockWait]
    );
    observed.work.as_mut().unwrap().postponed_by_lock = 1;
    assert_eq!(codes(&observed), ["lock_wait", "busy"]);
}

#[test]
fn a_relay_that_leads_and_publishes_nothing_is_found() {
    let minute = Duration::from_mins(1);
    let overdue = |work: &mut QueueBacklog| work.retries_overdue = minute;
    assert_eq!(codes(&with_backlog(overdue)), ["relay_missing", "busy"]);
    assert_eq!(codes(&with_backlog(|work| work.oldest_event = minute)), ["relay_missing", "busy"]);
    let full = |work: &mut QueueBacklog| {
        work.oldest_event = minute;
        work.nacked_events = vec!["allocated".into()];
    };
    assert_eq!(codes(&with_backlog(full)), ["event_refused", "busy"], "the broker is the cause");
}

#[test]
fn a_queue_without_consumers_at_the_broker_is_not_consumed() {
    let gone = with_queue(BrokerQueue::Exists { ready: 0, consumers: 0 });
    assert_eq!(codes(&gone), ["no_worker", "busy"]);
}

#[test]
fn what_waits_to_be_published_is_found() {
    assert_eq!(codes(&with_backlog(|work| work.relay_leads = false)), ["relay_missing", "busy"]);
    assert_eq!(codes(&with_backlog(|work| work.parked = 1)), ["event_refused", "busy"]);
    assert_eq!(
        codes(&with_backlog(|work| work.nacked_events = vec!["allocated".into()])),
        ["event_refused", "busy"]
    );
    let held = with_backlog(|work| (work.retrying, work.held) = (2, 1));
    assert_eq!(codes(&held), ["retries_held", "retries_waiting", "busy"]);
    assert_eq!(codes(&with_backlog(|work| work.waiting = 1)), ["retries_waiting", "busy"]);
}

#[test]
fn an_empty_queue_is_idle_if_no_process_has_a_message() {
    let mut observed = with_queue(BrokerQueue::Exists { ready: 0, consumers: 1 });
    assert_eq!(codes(&observed), ["busy"]);
    let set = |observed: &mut QueueObservations, queues| {
        observed.processes.as_mut().unwrap()[0].state.queues = queues;
    };
    set(&mut observed, work(1, 0));
    assert_eq!(codes(&observed), [] as [&str; 0]);
    assert!(!diagnose("allocation", &observed).is_well(), "a message is held and none is handled");
    set(&mut observed, work(0, 0));
    assert_eq!(codes(&observed), ["idle"]);
    assert!(diagnose("allocation", &observed).is_well());
    observed.work.as_mut().unwrap().retrying = 1;
    assert!(diagnose("allocation", &observed).is_well(), "its time comes");
    observed.work.as_mut().unwrap().relay_leads = false;
    assert!(!diagnose("allocation", &observed).is_well(), "nothing publishes the retry");
}

#[test]
fn messages_that_wait_without_a_reason_are_unexplained() {
    let mut observed = moving();
    observed.processes.as_mut().unwrap()[0].state.queues = work(500, 0);
    observed.work.as_mut().unwrap().relay_leads = false;
    assert_eq!(codes(&observed), ["unexplained", "relay_missing"], "what stops the queue is first");
    observed.broker.as_mut().unwrap().queue = Ok(BrokerQueue::Exists { ready: 0, consumers: 1 });
    let long = BusyPartition { queue: "orders".into(), seconds: 10 };
    observed.processes.as_mut().unwrap()[0].state.busy.push(long);
    assert_eq!(codes(&observed), ["unexplained", "relay_missing"], "all messages are in a process");
    observed.locks.as_mut().unwrap().holders = vec![holder(1)];
    assert_eq!(codes(&observed), ["lock_wait", "relay_missing"]);
    observed.processes = Ok(Vec::new());
    observed.broker.as_mut().unwrap().alarm = Ok(true);
    assert_eq!(codes(&observed)[..2], ["no_worker", "lock_wait"], "before the alarm");
}

#[test]
fn a_pool_that_leads_to_another_address_is_an_outage_of_the_database() {
    let away = || "refused".to_owned();
    let observed =
        QueueObservations { processes: Err(away()), locks: Err(away()), work: Err(away()), ..moving() };
    assert_eq!(codes(&observed), ["database_away"]);
}

#[test]
fn what_was_not_observed_is_not_known_and_nothing_is_blamed_for_it() {
    let away = "the database cannot be used";
    let observed = QueueObservations {
        database: Err("connection refused".into()),
        processes: Err(away.into()),
        locks: Err(away.into()),
        work: Err(away.into()),
        ..moving()
    };
    assert_eq!(codes(&observed), ["database_away"]);
    let diagnosis = diagnose("allocation", &observed);
    assert_eq!((diagnosis.moving, diagnosis.ready), (None, Some(600)));
    let ruled_out: Vec<_> = diagnosis.ruled_out.iter().map(|code| code.as_str()).collect();
    assert_eq!(ruled_out, ["broker_alarm", "queue_missing", "mail_away", "idle"]);
    assert!(!diagnosis.is_well());
}

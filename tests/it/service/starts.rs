//! Starts without an end: what may have killed its worker, and what has not.

use std::{sync::Arc, time::Duration};

use allocation::{
    domain::{Reason, RetryDecision},
    ports::{error::StoreError, queue::QueueName},
    service::batch_handler::BatchHandler as _,
};
use tokio::{sync::Semaphore, task::JoinHandle};

use crate::harness::HandleAll as _;

use super::fakes::{Call, Reply, ScriptedStore, batch, bus, names, redelivered, rejected, unavailable};

const ORDERS: QueueName = QueueName::Orders;

/// Everything that can go on without time has gone on.
async fn ack() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test]
async fn a_start_is_counted_once_however_often_the_database_is_away() {
    let store = ScriptedStore::default();
    store.next(Call::Load, vec![Reply::Fails(unavailable()); 5]);
    let (bus, mut messages) = (bus(&store), [redelivered(batch("m1", "LAMP")), batch("m2", "LAMP")]);
    for _ in 0..5 {
        assert!(bus.handle_all(ORDERS, &mut messages).await.is_err());
        assert_eq!(store.unfinished_starts(ORDERS, "m1").await, 1);
        assert_eq!(store.unfinished_starts(ORDERS, "m2").await, 0, "it is no redelivery");
    }
    assert_eq!(names(&bus.handle_all(ORDERS, &mut messages).await.unwrap()), ["handled", "handled"]);
    assert_eq!(store.asked(Call::RecordStarts), 1);
    assert_eq!(store.asked(Call::UnfinishedStarts), 1);
    assert_eq!(store.unfinished_starts(ORDERS, "m1").await, 0);
}

/// A start that could not be counted is counted the next time.
#[tokio::test]
async fn nothing_is_begun_before_its_start_is_counted() {
    let store = ScriptedStore::default();
    store.next(Call::RecordStarts, [Reply::Fails(unavailable())]);
    let (bus, mut messages) = (bus(&store), [redelivered(batch("m1", "LAMP"))]);
    assert!(bus.handle_all(ORDERS, &mut messages).await.is_err());
    assert_eq!(store.asked(Call::Begin), 0);
    bus.handle_all(ORDERS, &mut messages).await.unwrap();
    assert_eq!(store.asked(Call::RecordStarts), 2);
}

#[tokio::test]
async fn every_outcome_ends_a_start() {
    let store = ScriptedStore::default();
    let bus = bus(&store);
    bus.handle_all(ORDERS, &mut [batch("repeat", "LAMP")]).await.unwrap();
    store.loading("CURSED", Reply::Fails(StoreError::Failed("stuck".into())));
    let mut messages = [batch("repeat", "LAMP"), batch("m1", "LAMP"), rejected("m2"), batch("m3", "CURSED")]
        .map(redelivered);
    let outcomes = bus.handle_all(ORDERS, &mut messages).await.unwrap();
    assert_eq!(names(&outcomes), ["repeat", "handled", "retry", "retry"]);
    for id in ["repeat", "m1", "m2", "m3"] {
        assert_eq!(store.unfinished_starts(ORDERS, id).await, 0, "{id}");
    }
}

#[tokio::test]
async fn a_message_that_was_started_twice_has_a_unit_of_work_of_its_own() {
    for (starts, units_of_work) in [(1, 1), (2, 3), (3, 3)] {
        let store = ScriptedStore::default();
        store.was_started(ORDERS, "m2", starts).await;
        let mut messages = [batch("m1", "LAMP"), redelivered(batch("m2", "LAMP")), batch("m3", "LAMP")];
        let outcomes = bus(&store).handle_all(ORDERS, &mut messages).await.unwrap();
        assert_eq!(names(&outcomes), ["handled"; 3]);
        assert_eq!(store.kept().len(), units_of_work, "{starts} starts");
    }
}

#[tokio::test]
async fn a_message_that_was_started_four_times_is_dead_and_its_starts_forgotten() {
    let store = ScriptedStore::default();
    store.was_started(ORDERS, "m2", 4).await;
    let mut messages = [batch("m1", "LAMP"), redelivered(batch("m2", "LAMP")), batch("m3", "LAMP")];
    let outcomes = bus(&store).handle_all(ORDERS, &mut messages).await.unwrap();
    assert_eq!(names(&outcomes), ["handled", "dead", "handled"]);
    assert_eq!(store.failures()[0].next, RetryDecision::Dead(Reason::CrashLoop));
    assert_eq!(store.unfinished_starts(ORDERS, "m2").await, 0, "a retry by an operator begins from zero");
}

/// A bus, a message that was started twice, and the gate in front of each unit of work.
async fn suspect_before_a_gate() -> (ScriptedStore, Arc<Semaphore>) {
    let (store, gate) = (ScriptedStore::default(), Arc::new(Semaphore::new(0)));
    store.was_started(ORDERS, "suspect", 2).await;
    store.always(Call::Begin, Reply::Waits(gate.clone()));
    (store, gate)
}

fn lane(
    bus: &allocation::service::message_bus::MessageBus,
    message: allocation::service::received::ReceivedMessage,
) -> JoinHandle<()> {
    let bus = bus.clone();
    tokio::spawn(async move {
        bus.handle_all(ORDERS, &mut [message]).await.unwrap();
    })
}

/// If it kills its process, nothing else was being handled that could be taken for the cause.
#[tokio::test(start_paused = true)]
async fn a_suspect_waits_for_a_slow_lane_and_others_wait_for_the_suspect() {
    let (store, gate) = suspect_before_a_gate().await;
    let bus = bus(&store);
    let slow = lane(&bus, batch("slow", "LAMP"));
    ack().await;
    let suspect = lane(&bus, redelivered(batch("suspect", "LAMP")));
    ack().await;
    assert_eq!(store.asked(Call::Begin), 1, "the suspect waits for the slow one");
    assert_eq!(store.unfinished_starts(ORDERS, "suspect").await, 2, "and is not started");
    let other = lane(&bus, batch("other", "LAMP"));
    gate.add_permits(1);
    ack().await;
    assert!(slow.is_finished());
    assert_eq!(store.asked(Call::Begin), 2, "the other one waits for the suspect");
    assert_eq!(store.unfinished_starts(ORDERS, "suspect").await, 3);
    gate.add_permits(1);
    ack().await;
    assert!(suspect.is_finished());
    assert_eq!(store.asked(Call::Begin), 3);
    gate.add_permits(1);
    other.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn messages_without_suspicion_are_handled_side_by_side() {
    let (store, gate) = suspect_before_a_gate().await;
    let bus = bus(&store);
    let lanes = [lane(&bus, batch("m1", "LAMP")), lane(&bus, redelivered(batch("m2", "LAMP")))];
    ack().await;
    assert_eq!(store.asked(Call::Begin), 2);
    gate.add_permits(2);
    for lane in lanes {
        lane.await.unwrap();
    }
}

/// Handed back, or given up at a stop: the process has not crashed.
#[tokio::test]
async fn starts_that_this_process_has_counted_can_be_taken_back() {
    let store = ScriptedStore::default();
    store.was_started(ORDERS, "m1", 1).await;
    store.was_started(ORDERS, "not begun", 1).await;
    store.next(Call::Load, [Reply::Fails(unavailable())]);
    let (bus, mut messages) = (bus(&store), [redelivered(batch("m1", "LAMP")), batch("m2", "LAMP")]);
    assert!(bus.handle_all(ORDERS, &mut messages).await.is_err());
    assert_eq!(store.unfinished_starts(ORDERS, "m1").await, 2);
    bus.release(ORDERS, &messages.iter().collect::<Vec<_>>()).await;
    bus.release(ORDERS, &[&redelivered(batch("not begun", "LAMP"))]).await;
    assert_eq!(store.unfinished_starts(ORDERS, "m1").await, 1);
    assert_eq!(store.unfinished_starts(ORDERS, "not begun").await, 1, "it was another process that crashed");
    assert_eq!(store.asked(Call::RevertStarts), 1);
}

#[tokio::test]
async fn what_cannot_be_taken_back_now_is_taken_back_before_work_goes_on() {
    let store = ScriptedStore::default();
    store.next(Call::Load, [Reply::Fails(unavailable())]);
    let (bus, mut messages) = (bus(&store), [redelivered(batch("m1", "LAMP"))]);
    assert!(bus.handle_all(ORDERS, &mut messages).await.is_err());
    store.next(Call::RevertStarts, [Reply::Fails(unavailable()), Reply::Fails(unavailable())]);
    bus.release(ORDERS, &messages.iter().collect::<Vec<_>>()).await;
    assert!(bus.probe().await.is_err(), "a database that cannot be written is unavailable");
    assert_eq!(store.unfinished_starts(ORDERS, "m1").await, 1);
    bus.probe().await.unwrap();
    assert_eq!(store.unfinished_starts(ORDERS, "m1").await, 0);
    bus.probe().await.unwrap();
    assert_eq!(store.asked(Call::RevertStarts), 3, "once");
}

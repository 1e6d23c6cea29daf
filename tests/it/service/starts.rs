//! Unfinished starts: which messages may have crashed their worker.

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

/// Lets all tasks run until they wait.
async fn run_tasks() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test]
async fn a_start_is_counted_once_in_repeated_outages() {
    let store = ScriptedStore::default();
    store.set_next_replies(Call::Load, vec![Reply::Fails(unavailable()); 5]);
    let (bus, mut messages) = (bus(&store), [redelivered(batch("m1", "LAMP")), batch("m2", "LAMP")]);
    for _ in 0..5 {
        assert!(bus.handle_all(ORDERS, &mut messages).await.is_err());
        assert_eq!(store.unfinished_starts(ORDERS, "m1").await, 1);
        assert_eq!(store.unfinished_starts(ORDERS, "m2").await, 0, "it is not a redelivery");
    }
    assert_eq!(names(&bus.handle_all(ORDERS, &mut messages).await.unwrap()), ["handled", "handled"]);
    assert_eq!(store.calls(Call::RecordStarts), 1);
    assert_eq!(store.calls(Call::UnfinishedStarts), 1);
    assert_eq!(store.unfinished_starts(ORDERS, "m1").await, 0);
}

/// A start that could not be recorded is recorded at the next try.
#[tokio::test]
async fn no_message_is_handled_before_its_start_is_recorded() {
    let store = ScriptedStore::default();
    store.set_next_replies(Call::RecordStarts, [Reply::Fails(unavailable())]);
    let (bus, mut messages) = (bus(&store), [redelivered(batch("m1", "LAMP"))]);
    assert!(bus.handle_all(ORDERS, &mut messages).await.is_err());
    assert_eq!(store.calls(Call::Begin), 0);
    bus.handle_all(ORDERS, &mut messages).await.unwrap();
    assert_eq!(store.calls(Call::RecordStarts), 2);
}

#[tokio::test]
async fn every_outcome_clears_the_starts() {
    let store = ScriptedStore::default();
    let bus = bus(&store);
    bus.handle_all(ORDERS, &mut [batch("duplicate", "LAMP")]).await.unwrap();
    store.set_load_reply("FAILS", Reply::Fails(StoreError::Failed("disk full".into())));
    let mut messages =
        [batch("duplicate", "LAMP"), batch("m1", "LAMP"), rejected("m2"), batch("m3", "FAILS")]
            .map(redelivered);
    let outcomes = bus.handle_all(ORDERS, &mut messages).await.unwrap();
    assert_eq!(names(&outcomes), ["duplicate", "handled", "retry", "retry"]);
    for id in ["duplicate", "m1", "m2", "m3"] {
        assert_eq!(store.unfinished_starts(ORDERS, id).await, 0, "{id}");
    }
}

#[tokio::test]
async fn a_message_with_two_unfinished_starts_has_its_own_unit_of_work() {
    for (starts, units_of_work) in [(1, 1), (2, 3), (3, 3)] {
        let store = ScriptedStore::default();
        store.set_unfinished_starts(ORDERS, "m2", starts).await;
        let mut messages = [batch("m1", "LAMP"), redelivered(batch("m2", "LAMP")), batch("m3", "LAMP")];
        let outcomes = bus(&store).handle_all(ORDERS, &mut messages).await.unwrap();
        assert_eq!(names(&outcomes), ["handled"; 3]);
        assert_eq!(store.commits().len(), units_of_work, "{starts} starts");
    }
}

#[tokio::test]
async fn a_message_with_four_unfinished_starts_is_dead_and_its_starts_are_cleared() {
    let store = ScriptedStore::default();
    store.set_unfinished_starts(ORDERS, "m2", 4).await;
    let mut messages = [batch("m1", "LAMP"), redelivered(batch("m2", "LAMP")), batch("m3", "LAMP")];
    let outcomes = bus(&store).handle_all(ORDERS, &mut messages).await.unwrap();
    assert_eq!(names(&outcomes), ["handled", "dead", "handled"]);
    assert_eq!(store.failures()[0].next, RetryDecision::Dead(Reason::CrashLoop));
    assert_eq!(store.unfinished_starts(ORDERS, "m2").await, 0, "a retry by an operator starts from zero");
}

/// A store with two unfinished starts of `isolated`, and the gate in front of each unit of work.
async fn store_with_gate() -> (ScriptedStore, Arc<Semaphore>) {
    let (store, gate) = (ScriptedStore::default(), Arc::new(Semaphore::new(0)));
    store.set_unfinished_starts(ORDERS, "isolated", 2).await;
    store.set_reply(Call::Begin, Reply::Waits(gate.clone()));
    (store, gate)
}

/// Handles a message in its own task, as a partition does.
fn partition(
    bus: &allocation::service::message_bus::MessageBus,
    message: allocation::service::received::ReceivedMessage,
) -> JoinHandle<()> {
    let bus = bus.clone();
    tokio::spawn(async move {
        bus.handle_all(ORDERS, &mut [message]).await.unwrap();
    })
}

/// If the process crashes, the isolated message is the only possible cause.
#[tokio::test(start_paused = true)]
async fn an_isolated_message_waits_for_other_partitions_and_they_wait_for_it() {
    let (store, gate) = store_with_gate().await;
    let bus = bus(&store);
    let slow = partition(&bus, batch("slow", "LAMP"));
    run_tasks().await;
    let isolated = partition(&bus, redelivered(batch("isolated", "LAMP")));
    run_tasks().await;
    assert_eq!(store.calls(Call::Begin), 1, "the isolated message waits for the slow one");
    assert_eq!(store.unfinished_starts(ORDERS, "isolated").await, 2, "its start is not recorded yet");
    let other = partition(&bus, batch("other", "LAMP"));
    gate.add_permits(1);
    run_tasks().await;
    assert!(slow.is_finished());
    assert_eq!(store.calls(Call::Begin), 2, "the other message waits for the isolated one");
    assert_eq!(store.unfinished_starts(ORDERS, "isolated").await, 3);
    gate.add_permits(1);
    run_tasks().await;
    assert!(isolated.is_finished());
    assert_eq!(store.calls(Call::Begin), 3);
    gate.add_permits(1);
    other.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn messages_that_are_not_isolated_are_handled_concurrently() {
    let (store, gate) = store_with_gate().await;
    let bus = bus(&store);
    let partitions =
        [partition(&bus, batch("m1", "LAMP")), partition(&bus, redelivered(batch("m2", "LAMP")))];
    run_tasks().await;
    assert_eq!(store.calls(Call::Begin), 2);
    gate.add_permits(2);
    for partition in partitions {
        partition.await.unwrap();
    }
}

/// After a requeue or a shutdown: the process has not crashed.
#[tokio::test]
async fn only_starts_that_this_process_recorded_are_reverted() {
    let store = ScriptedStore::default();
    store.set_unfinished_starts(ORDERS, "m1", 1).await;
    store.set_unfinished_starts(ORDERS, "not begun", 1).await;
    store.set_next_replies(Call::Load, [Reply::Fails(unavailable())]);
    let (bus, mut messages) = (bus(&store), [redelivered(batch("m1", "LAMP")), batch("m2", "LAMP")]);
    assert!(bus.handle_all(ORDERS, &mut messages).await.is_err());
    assert_eq!(store.unfinished_starts(ORDERS, "m1").await, 2);
    bus.release(ORDERS, &messages.iter().collect::<Vec<_>>()).await;
    bus.release(ORDERS, &[&redelivered(batch("not begun", "LAMP"))]).await;
    assert_eq!(store.unfinished_starts(ORDERS, "m1").await, 1);
    assert_eq!(store.unfinished_starts(ORDERS, "not begun").await, 1, "another process has crashed");
    assert_eq!(store.calls(Call::RevertStarts), 1);
}

#[tokio::test]
async fn starts_that_cannot_be_reverted_now_are_reverted_before_the_next_message() {
    let store = ScriptedStore::default();
    store.set_next_replies(Call::Load, [Reply::Fails(unavailable())]);
    let (bus, mut messages) = (bus(&store), [redelivered(batch("m1", "LAMP"))]);
    assert!(bus.handle_all(ORDERS, &mut messages).await.is_err());
    store.set_next_replies(Call::RevertStarts, [Reply::Fails(unavailable()), Reply::Fails(unavailable())]);
    bus.release(ORDERS, &messages.iter().collect::<Vec<_>>()).await;
    assert!(bus.probe().await.is_err(), "a database that cannot be written is unavailable");
    assert_eq!(store.unfinished_starts(ORDERS, "m1").await, 1);
    bus.probe().await.unwrap();
    assert_eq!(store.unfinished_starts(ORDERS, "m1").await, 0);
    bus.probe().await.unwrap();
    assert_eq!(store.calls(Call::RevertStarts), 3, "once");
}

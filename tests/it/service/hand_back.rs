//! Outages that last longer than `worker.requeue_after`: messages return to their queue.

use std::time::Duration;

use allocation::{
    domain::RetryDecision,
    entrypoints::consumer::Consumer,
    ports::{error::StoreError, queue::QueueName},
};

use super::fakes::{
    Call, Reply, RunningConsumer, ScriptedQueues, ScriptedStore, batch, broken, consumer, unavailable,
};

const STOCK: QueueName = QueueName::Stock;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn three() -> [String; 3] {
    ["m1", "m2", "m3"].map(str::to_owned)
}

fn with_three() -> (ScriptedQueues, ScriptedStore) {
    let queues = ScriptedQueues::default();
    queues.put(["m1", "m2", "m3"].map(|id| batch(id, "LAMP").message));
    (queues, ScriptedStore::default())
}

#[tokio::test(start_paused = true)]
async fn messages_go_back_after_the_hold_and_nothing_is_taken_until_the_server_is_there() {
    let (queues, store) = with_three();
    store.always(Call::Begin, Reply::Fails(unavailable()));
    store.always(Call::Probe, Reply::Fails(unavailable()));
    let consumer = consumer(&queues, &store);
    let database = consumer.dependencies.database.clone();
    let running = RunningConsumer::start(consumer);
    tokio::time::sleep(seconds(2)).await;
    assert!(queues.ready().is_empty(), "held");
    assert!(database.is_down());
    tokio::time::sleep(seconds(60)).await;
    assert_eq!(queues.ready(), three());
    assert_eq!((queues.prefetches().len(), queues.delivered()), (1, 3), "each delivery counts at the broker");
    assert!(store.asked(Call::Probe) > 20);
    store.always(Call::Begin, Reply::Does);
    store.always(Call::Probe, Reply::Does);
    tokio::time::sleep(seconds(3)).await;
    assert_eq!(queues.acknowledged(), three());
    assert!(!database.is_down());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_over_when_the_server_answers_although_nothing_is_left_to_do() {
    let (queues, store) = with_three();
    for call in [Call::Begin, Call::Probe] {
        store.always(call, Reply::Fails(unavailable()));
    }
    let consumer = consumer(&queues, &store);
    let database = consumer.dependencies.database.clone();
    let running = RunningConsumer::start(consumer);
    tokio::time::sleep(seconds(30)).await;
    queues.are_taken_by_another();
    assert!(database.is_down());
    store.always(Call::Probe, Reply::Does);
    tokio::time::sleep(seconds(3)).await;
    assert!(!database.is_down());
    running.stop().await;
}

/// A full disk takes no unit of work, and answers every probe.
#[tokio::test(start_paused = true)]
async fn while_nothing_can_be_handled_messages_are_taken_less_and_less_often() {
    let (queues, store) = with_three();
    store.always(Call::Load, Reply::Fails(unavailable()));
    let running = RunningConsumer::start(consumer(&queues, &store));
    tokio::time::sleep(Duration::from_hours(1)).await;
    let gaps = queues.gaps();
    assert!((3.0..7.0).contains(&gaps[0]), "{gaps:?}");
    assert!((15.0..25.0).contains(&gaps[4]), "{gaps:?}");
    assert!(gaps.iter().rev().take(3).all(|gap| (240.0..380.0).contains(gap)), "{gaps:?}");
    assert!(gaps.len() < 25, "{} deliveries in an hour", gaps.len() + 1);
    assert!(store.failures().is_empty());
    store.always(Call::Load, Reply::Does);
    tokio::time::sleep(seconds(400)).await;
    assert_eq!(queues.acknowledged(), three());
    running.stop().await;
}

/// One partition is blocked; the others handle their messages.
#[tokio::test(start_paused = true)]
async fn while_anything_is_handled_messages_are_taken_again_soon() {
    let (queues, store) = (ScriptedQueues::default(), ScriptedStore::default());
    queues.put([batch("away", "AWAY").message]);
    store.loading("AWAY", Reply::Fails(unavailable()));
    let running = RunningConsumer::start(Consumer { partitions: 4, ..consumer(&queues, &store) });
    for i in 0..600 {
        queues.put([batch(&format!("m{i}"), "LAMP").message]);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let gaps = queues.gaps();
    assert!(gaps.len() > 15 && gaps.iter().all(|gap| *gap < 7.0), "{gaps:?}");
    running.stop().await;
}

/// A message that cannot be recorded is handed back as well; it is no outage that a probe would find.
#[tokio::test(start_paused = true)]
async fn a_start_is_no_crash_when_the_message_is_handed_back() {
    for error in [unavailable(), broken(), StoreError::Conflict("always".into())] {
        let (queues, store) = with_three();
        queues.all_redelivered();
        store.always(Call::Commit, Reply::Fails(error.clone()));
        let running = RunningConsumer::start(consumer(&queues, &store));
        tokio::time::sleep(Duration::from_hours(1)).await;
        assert!(queues.prefetches().len() > 8, "{error}");
        assert!(
            store.unfinished_starts(STOCK, "m1").await <= 1,
            "{error}: once if it is being handled, else not at all"
        );
        store.always(Call::Commit, Reply::Does);
        tokio::time::sleep(seconds(400)).await;
        assert_eq!(queues.acknowledged(), three(), "{error}");
        let dead =
            store.failures().into_iter().find(|failure| matches!(failure.next, RetryDecision::Dead(_)));
        assert_eq!(dead, None, "{error}: at most an attempt, if it was being recorded at that time");
        assert_eq!(store.unfinished_starts(STOCK, "m1").await, 0);
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_in_an_outage_waits_for_no_server() {
    let (queues, store) = with_three();
    queues.all_redelivered();
    store.always(Call::Load, Reply::Fails(unavailable()));
    let running = RunningConsumer::start(consumer(&queues, &store));
    tokio::time::sleep(seconds(1)).await;
    assert_eq!(store.unfinished_starts(STOCK, "m1").await, 1);
    assert!(running.stop().await < Duration::from_millis(10));
    assert_eq!(queues.ready(), three());
    assert_eq!(store.unfinished_starts(STOCK, "m1").await, 0);
    // The same while messages are back in the queue.
    store.always(Call::Probe, Reply::Fails(unavailable()));
    let running = RunningConsumer::start(consumer(&queues, &store));
    tokio::time::sleep(seconds(30)).await;
    assert_eq!(queues.ready(), three());
    assert!(running.stop().await < Duration::from_millis(10));
    assert_eq!(queues.prefetches().len(), 2);
}

/// A network that is gone takes database and broker with it: six times in a row, and no worker has crashed.
#[tokio::test(start_paused = true)]
async fn a_start_is_no_crash_when_the_subscription_is_lost_in_an_outage() {
    let (queues, store) = with_three();
    queues.all_redelivered();
    let running = RunningConsumer::start(consumer(&queues, &store));
    for _ in 0..6 {
        store.always(Call::Load, Reply::Fails(unavailable()));
        store.always(Call::RevertStarts, Reply::Fails(unavailable()));
        tokio::time::sleep(Duration::from_millis(300)).await;
        queues.break_now();
        tokio::time::sleep(Duration::from_millis(1)).await;
        store.always(Call::RevertStarts, Reply::Does);
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    store.always(Call::Load, Reply::Does);
    tokio::time::sleep(seconds(60)).await;
    assert_eq!(queues.acknowledged(), three());
    assert!(store.failures().is_empty(), "{:?}", store.failures());
    running.stop().await;
}

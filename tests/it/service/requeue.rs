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

fn three_ids() -> [String; 3] {
    ["m1", "m2", "m3"].map(str::to_owned)
}

fn with_three_messages() -> (ScriptedQueues, ScriptedStore) {
    let queues = ScriptedQueues::default();
    queues.put(["m1", "m2", "m3"].map(|id| batch(id, "LAMP").message));
    (queues, ScriptedStore::default())
}

#[tokio::test(start_paused = true)]
async fn messages_are_requeued_and_none_is_taken_until_the_server_is_available() {
    let (queues, store) = with_three_messages();
    store.set_reply(Call::Begin, Reply::Fails(unavailable()));
    store.set_reply(Call::Probe, Reply::Fails(unavailable()));
    let consumer = consumer(&queues, &store);
    let database = consumer.dependencies.database.clone();
    let running = RunningConsumer::start(consumer);
    tokio::time::sleep(seconds(2)).await;
    assert!(queues.ready().is_empty(), "the consumer holds the messages");
    assert!(database.is_down());
    tokio::time::sleep(seconds(60)).await;
    assert_eq!(queues.ready(), three_ids());
    assert_eq!(
        (queues.prefetches().len(), queues.delivered()),
        (1, 3),
        "each delivery counts towards the delivery limit"
    );
    assert!(store.calls(Call::Probe) > 20);
    store.set_reply(Call::Begin, Reply::Does);
    store.set_reply(Call::Probe, Reply::Does);
    tokio::time::sleep(seconds(3)).await;
    assert_eq!(queues.acknowledged(), three_ids());
    assert!(!database.is_down());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_ends_when_a_probe_succeeds_although_no_message_is_left() {
    let (queues, store) = with_three_messages();
    for call in [Call::Begin, Call::Probe] {
        store.set_reply(call, Reply::Fails(unavailable()));
    }
    let consumer = consumer(&queues, &store);
    let database = consumer.dependencies.database.clone();
    let running = RunningConsumer::start(consumer);
    tokio::time::sleep(seconds(30)).await;
    queues.remove_ready();
    assert!(database.is_down());
    store.set_reply(Call::Probe, Reply::Does);
    tokio::time::sleep(seconds(3)).await;
    assert!(!database.is_down());
    running.stop().await;
}

/// The database replies to every probe, but cannot execute a unit of work, as with a full disk.
#[tokio::test(start_paused = true)]
async fn pauses_grow_while_no_message_can_be_handled() {
    let (queues, store) = with_three_messages();
    store.set_reply(Call::Load, Reply::Fails(unavailable()));
    let running = RunningConsumer::start(consumer(&queues, &store));
    tokio::time::sleep(Duration::from_hours(1)).await;
    let gaps = queues.gaps();
    assert!((3.0..7.0).contains(&gaps[0]), "{gaps:?}");
    assert!((15.0..25.0).contains(&gaps[4]), "{gaps:?}");
    assert!(gaps.iter().rev().take(3).all(|gap| (240.0..380.0).contains(gap)), "{gaps:?}");
    assert!(gaps.len() < 25, "{} deliveries in an hour", gaps.len() + 1);
    assert!(store.failures().is_empty());
    store.set_reply(Call::Load, Reply::Does);
    tokio::time::sleep(seconds(400)).await;
    assert_eq!(queues.acknowledged(), three_ids());
    running.stop().await;
}

/// One partition is blocked; the others handle their messages.
#[tokio::test(start_paused = true)]
async fn pauses_stay_short_while_other_messages_are_handled() {
    let (queues, store) = (ScriptedQueues::default(), ScriptedStore::default());
    queues.put([batch("blocked", "BLOCKED").message]);
    store.set_load_reply("BLOCKED", Reply::Fails(unavailable()));
    let running = RunningConsumer::start(Consumer { partitions: 4, ..consumer(&queues, &store) });
    for i in 0..600 {
        queues.put([batch(&format!("m{i}"), "LAMP").message]);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let gaps = queues.gaps();
    assert!(gaps.len() > 15 && gaps.iter().all(|gap| *gap < 7.0), "{gaps:?}");
    running.stop().await;
}

/// A message whose failure cannot be recorded is requeued as well, although the probe succeeds.
#[tokio::test(start_paused = true)]
async fn a_requeued_message_has_no_unfinished_start() {
    for error in [unavailable(), broken(), StoreError::Conflict("always".into())] {
        let (queues, store) = with_three_messages();
        queues.mark_all_redelivered();
        store.set_reply(Call::Commit, Reply::Fails(error.clone()));
        let running = RunningConsumer::start(consumer(&queues, &store));
        tokio::time::sleep(Duration::from_hours(1)).await;
        assert!(queues.prefetches().len() > 8, "{error}");
        assert!(
            store.unfinished_starts(STOCK, "m1").await <= 1,
            "{error}: at most the start of the current handling"
        );
        store.set_reply(Call::Commit, Reply::Does);
        tokio::time::sleep(seconds(400)).await;
        assert_eq!(queues.acknowledged(), three_ids(), "{error}");
        let dead =
            store.failures().into_iter().find(|failure| matches!(failure.next, RetryDecision::Dead(_)));
        assert_eq!(dead, None, "{error}: an attempt may be recorded, but no message is dead");
        assert_eq!(store.unfinished_starts(STOCK, "m1").await, 0);
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_in_an_outage_does_not_wait_for_the_server() {
    let (queues, store) = with_three_messages();
    queues.mark_all_redelivered();
    store.set_reply(Call::Load, Reply::Fails(unavailable()));
    let running = RunningConsumer::start(consumer(&queues, &store));
    tokio::time::sleep(seconds(1)).await;
    assert_eq!(store.unfinished_starts(STOCK, "m1").await, 1);
    assert!(running.stop().await < Duration::from_millis(10));
    assert_eq!(queues.ready(), three_ids());
    assert_eq!(store.unfinished_starts(STOCK, "m1").await, 0);
    // The same after the messages were requeued.
    store.set_reply(Call::Probe, Reply::Fails(unavailable()));
    let running = RunningConsumer::start(consumer(&queues, &store));
    tokio::time::sleep(seconds(30)).await;
    assert_eq!(queues.ready(), three_ids());
    assert!(running.stop().await < Duration::from_millis(10));
    assert_eq!(queues.prefetches().len(), 2);
}

/// A network failure affects database and broker, six times in a row. No worker has crashed.
#[tokio::test(start_paused = true)]
async fn starts_are_reverted_if_the_subscription_is_lost_in_an_outage() {
    let (queues, store) = with_three_messages();
    queues.mark_all_redelivered();
    let running = RunningConsumer::start(consumer(&queues, &store));
    for _ in 0..6 {
        store.set_reply(Call::Load, Reply::Fails(unavailable()));
        store.set_reply(Call::RevertStarts, Reply::Fails(unavailable()));
        tokio::time::sleep(Duration::from_millis(300)).await;
        queues.break_now();
        tokio::time::sleep(Duration::from_millis(1)).await;
        store.set_reply(Call::RevertStarts, Reply::Does);
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    store.set_reply(Call::Load, Reply::Does);
    tokio::time::sleep(seconds(60)).await;
    assert_eq!(queues.acknowledged(), three_ids());
    assert!(store.failures().is_empty(), "{:?}", store.failures());
    running.stop().await;
}

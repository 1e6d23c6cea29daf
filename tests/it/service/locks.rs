//! Rows that another session of the database has locked: only the commands that need them wait, and nothing is counted.

use std::time::Duration;

use allocation::{
    entrypoints::{consumer::Consumer, prefetch::PrefetchLimits},
    ports::queue::QueueName,
    service::received::ReceivedMessage,
};
use serde_json::json;
use tokio::time::Instant;

use crate::harness::{HandleAll as _, command};

use super::fakes::{
    Call, Reply, RunningConsumer, ScriptedQueues, ScriptedStore, batch, bus, conflict, consumer, line, names,
    redelivered,
};

const STOCK: QueueName = QueueName::Stock;
const ORDERS: QueueName = QueueName::Orders;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Two products with stock.
async fn with_products() -> ScriptedStore {
    let store = ScriptedStore::default();
    let mut batches = [batch("lamp", "LAMP"), batch("vase", "VASE")];
    bus(&store).handle_all(STOCK, &mut batches).await.unwrap();
    store
}

fn lines() -> [ReceivedMessage; 4] {
    [line("m1", "LAMP", 1), line("m2", "VASE", 1), line("m3", "LAMP", 1), line("m4", "VASE", 1)]
}

#[tokio::test(start_paused = true)]
async fn a_locked_product_blocks_only_its_own_commands() {
    let store = with_products().await;
    let (bus, mut messages) = (bus(&store), lines());
    store.set_locked(&["LAMP"]);
    let outcomes = bus.handle_all(ORDERS, &mut messages).await.unwrap();
    assert_eq!(names(&outcomes), ["blocked", "handled", "blocked", "handled"]);
    // The lock is known: nothing waits for it again.
    let begin = Instant::now();
    let mut later = [line("m5", "LAMP", 1), line("m6", "VASE", 1)];
    let outcomes = bus.handle_all(ORDERS, &mut later).await.unwrap();
    assert_eq!(names(&outcomes), ["blocked", "handled"]);
    assert!(begin.elapsed() < Duration::from_millis(60), "{:?}", begin.elapsed());
    store.set_locked(&[]);
    let outcomes = bus.handle_all(ORDERS, &mut lines()).await.unwrap();
    assert_eq!(names(&outcomes), ["handled", "duplicate", "handled", "duplicate"]);
    assert_eq!(store.failures(), []);
}

/// For example a line, or a row of the read model: which command needs it is not known before it is written.
#[tokio::test(start_paused = true)]
async fn another_locked_row_blocks_only_the_commands_of_its_product() {
    let store = with_products().await;
    let (bus, mut messages) = (bus(&store), lines());
    store.set_rows_locked(&["LAMP"]);
    let outcomes = bus.handle_all(ORDERS, &mut messages).await.unwrap();
    assert_eq!(names(&outcomes), ["blocked", "handled", "blocked", "handled"]);
    assert_eq!(store.failures(), []);
}

#[tokio::test(start_paused = true)]
async fn no_message_overtakes_a_blocked_one_with_its_key_or_id() {
    let store = with_products().await;
    let bus = bus(&store);
    store.set_locked(&["LAMP"]);
    let change = |id: &str| command(id, "change_batch_quantity", &json!({ "batchref": "b-m1", "qty": 5 }));
    // The batch of the second message is created by the first one; the third has the id of the first.
    let mut messages = [batch("m1", "LAMP"), change("m2"), batch("m1", "VASE"), batch("m3", "VASE")];
    let outcomes = bus.handle_all(STOCK, &mut messages).await.unwrap();
    assert_eq!(names(&outcomes), ["blocked", "blocked", "blocked", "handled"]);
    store.set_locked(&[]);
    let mut messages = [batch("m1", "LAMP"), change("m2"), batch("m1", "VASE")];
    let outcomes = bus.handle_all(STOCK, &mut messages).await.unwrap();
    assert_eq!(names(&outcomes), ["handled", "handled", "dead"], "the id was used with another body");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_waits_for_a_lock_has_no_unfinished_start() {
    let store = with_products().await;
    let (bus, mut messages) = (bus(&store), [redelivered(line("m1", "LAMP", 1))]);
    store.set_unfinished_starts(ORDERS, "m1", 1).await;
    store.set_locked(&["LAMP"]);
    for _ in 0..5 {
        assert_eq!(names(&bus.handle_all(ORDERS, &mut messages).await.unwrap()), ["blocked"]);
    }
    bus.handle_all(ORDERS, &mut []).await.unwrap();
    assert_eq!(store.unfinished_starts(ORDERS, "m1").await, 1, "that of an earlier worker");
    store.set_locked(&[]);
    assert_eq!(names(&bus.handle_all(ORDERS, &mut messages).await.unwrap()), ["handled"]);
    assert_eq!(store.unfinished_starts(ORDERS, "m1").await, 0);
}

/// Locks on the tables of starts, or of failed messages, concern all messages.
#[tokio::test(start_paused = true)]
async fn a_conflict_outside_of_the_unit_of_work_is_no_outage() {
    for (call, message) in [
        (Call::UnfinishedStarts, redelivered(line("m1", "LAMP", 1))),
        (Call::RecordStarts, redelivered(line("m1", "LAMP", 1))),
        (Call::CheckInbox, line("m1", "LAMP", 1)),
    ] {
        let store = with_products().await;
        store.set_reply(call, Reply::Fails(conflict()));
        let bus = bus(&store);
        let outcomes = bus.handle_all(ORDERS, &mut [message]).await.unwrap();
        assert_eq!(names(&outcomes), ["blocked"], "{call:?}");
        assert_eq!(store.failures(), []);
    }
}

fn ids(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|i| format!("{prefix}{i}")).collect()
}

fn put(queues: &ScriptedQueues, ids: &[String], sku: &str) {
    queues.put(ids.iter().map(|id| line(id, sku, 1).message));
}

fn orders(queues: &ScriptedQueues, store: &ScriptedStore) -> Consumer {
    Consumer { queue: ORDERS, max_batch: 10, ..consumer(queues, store) }
}

#[tokio::test(start_paused = true)]
async fn locked_messages_are_held_back_and_the_others_of_the_partition_continue() {
    let (queues, store) = (ScriptedQueues::default(), with_products().await);
    let running = RunningConsumer::start(orders(&queues, &store));
    store.set_locked(&["LAMP"]);
    put(&queues, &ids("lamp", 25), "LAMP");
    put(&queues, &ids("vase", 100), "VASE");
    tokio::time::sleep(seconds(3)).await;
    assert_eq!(queues.acknowledged(), ids("vase", 100));
    tokio::time::sleep(seconds(60)).await;
    assert_eq!(queues.prefetches().len(), 1, "no message was returned to the queue");
    let before = store.calls(Call::Load);
    tokio::time::sleep(seconds(60)).await;
    let tries = store.calls(Call::Load) - before;
    assert!((40..80).contains(&tries), "{tries} tries in a minute");
    store.set_locked(&[]);
    tokio::time::sleep(seconds(2)).await;
    let expected = [ids("vase", 100), ids("lamp", 25)].concat();
    assert_eq!(queues.acknowledged(), expected, "in their order");
    assert_eq!(store.failures(), []);
    running.stop().await;
}

/// Their number exceeds what the broker delivers without acknowledgements.
#[tokio::test(start_paused = true)]
async fn locked_messages_do_not_use_up_the_deliveries_in_flight() {
    let (queues, store) = (ScriptedQueues::default(), with_products().await);
    let prefetch = PrefetchLimits { messages: 10, bytes: 1_000_000 };
    let running = RunningConsumer::start(Consumer { prefetch, ..orders(&queues, &store) });
    store.set_locked(&["LAMP"]);
    put(&queues, &ids("lamp", 100), "LAMP");
    put(&queues, &ids("vase", 50), "VASE");
    tokio::time::sleep(seconds(60)).await;
    assert_eq!(queues.acknowledged(), ids("vase", 50));
    assert!(queues.prefetches().len() < 8, "{:?}", queues.prefetches());
    // Up to a limit: then the partition waits.
    put(&queues, &ids("more", 100), "LAMP");
    put(&queues, &ids("late", 10), "VASE");
    tokio::time::sleep(seconds(60)).await;
    assert_eq!(queues.acknowledged(), ids("vase", 50));
    assert!(queues.prefetches().len() < 10, "{:?}", queues.prefetches());
    store.set_locked(&[]);
    tokio::time::sleep(seconds(60)).await;
    let acknowledged = queues.acknowledged();
    assert_eq!(acknowledged.len(), 260);
    let lamps = acknowledged.into_iter().filter(|id| !id.starts_with("vase") && !id.starts_with("late"));
    assert_eq!(lamps.collect::<Vec<_>>(), [ids("lamp", 100), ids("more", 100)].concat(), "in their order");
    assert_eq!(store.failures(), []);
    running.stop().await;
}

/// After a quick loss of the connection deliveries come one by one.
#[tokio::test(start_paused = true)]
async fn a_locked_message_does_not_stop_deliveries_that_come_one_by_one() {
    let (queues, store) = (ScriptedQueues::default(), with_products().await);
    queues.set_breaks([Some(0)]);
    store.set_locked(&["LAMP"]);
    put(&queues, &ids("lamp", 1), "LAMP");
    put(&queues, &ids("vase", 50), "VASE");
    let running = RunningConsumer::start(orders(&queues, &store));
    tokio::time::sleep(seconds(10)).await;
    assert_eq!(queues.acknowledged(), ids("vase", 50));
    store.set_locked(&[]);
    tokio::time::sleep(seconds(3)).await;
    assert_eq!(queues.acknowledged().len(), 51);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_returns_messages_that_wait_for_a_lock_in_their_order() {
    let (queues, store) = (ScriptedQueues::default(), with_products().await);
    let running = RunningConsumer::start(orders(&queues, &store));
    store.set_locked(&["LAMP"]);
    put(&queues, &ids("lamp", 25), "LAMP");
    tokio::time::sleep(seconds(5)).await;
    let begin = Instant::now();
    running.stop().await;
    assert!(begin.elapsed() < seconds(2), "{:?}", begin.elapsed());
    assert_eq!(queues.ready(), ids("lamp", 25));
}

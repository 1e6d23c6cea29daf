//! The consumer: prefetch, partitions and shutdown.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use allocation::{
    domain::{Reason, RetryDecision},
    entrypoints::consumer::Consumer,
    ports::queue::{Message, QueueKind, QueueName},
};
use tokio::sync::Semaphore;

use crate::harness::{HandleAll as _, PREFETCH};

use super::fakes::{
    Call, Reply, RunningConsumer, ScriptedQueues, ScriptedStore, batch, bus, consumer, line, rejected_change,
    unavailable,
};

const STOCK: QueueName = QueueName::Stock;
/// The prefetch of a subscription whose deliveries are not taken one by one.
const FULL: u16 = PREFETCH.messages;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn id(i: usize) -> String {
    format!("m{i:03}")
}

/// Commands that succeed.
fn batches(count: usize) -> Vec<Message> {
    (0..count).map(|i| batch(&id(i), "LAMP").message).collect()
}

fn ids(count: usize) -> Vec<String> {
    (0..count).map(id).collect()
}

#[tokio::test(start_paused = true)]
async fn after_a_subscription_that_is_lost_at_once_twenty_messages_are_taken_one_by_one() {
    let (queues, store) = (ScriptedQueues::default(), ScriptedStore::default());
    queues.put(batches(30));
    queues.set_breaks([Some(3)]);
    let running = RunningConsumer::start(consumer(&queues, &store));
    tokio::time::sleep(seconds(2)).await;
    assert_eq!(queues.prefetches(), [FULL, 1, FULL]);
    assert_eq!(queues.acknowledged(), ids(30));
    queues.break_now();
    tokio::time::sleep(seconds(2)).await;
    assert_eq!(queues.prefetches()[3..], [FULL], "the second subscription lasted long enough");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_full_prefetch_returns_after_twenty_acknowledgements() {
    let (queues, store) = (ScriptedQueues::default(), ScriptedStore::default());
    queues.put(batches(19));
    queues.set_breaks([Some(0)]);
    let running = RunningConsumer::start(consumer(&queues, &store));
    tokio::time::sleep(seconds(60)).await;
    assert_eq!(queues.prefetches(), [FULL, 1]);
    queues.put([batch("last", "LAMP").message]);
    tokio::time::sleep(seconds(1)).await;
    assert_eq!(queues.prefetches(), [FULL, 1, FULL]);
    running.stop().await;
}

/// A dead-letter queue has no delivery limit: a message that breaks its subscription is delivered again without end.
#[tokio::test(start_paused = true)]
async fn subscriptions_to_dead_letters_that_are_lost_at_once_are_renewed_after_growing_pauses() {
    for (queue_kind, slow) in [(QueueKind::Main, false), (QueueKind::DeadLetter, true)] {
        let (queues, store) = (ScriptedQueues::default(), ScriptedStore::default());
        queues.set_breaks([Some(0); 12]);
        let running = RunningConsumer::start(Consumer {
            queue_kind,
            has_delivery_limit: !slow,
            ..consumer(&queues, &store)
        });
        tokio::time::sleep(seconds(60)).await;
        let gaps = queues.gaps();
        assert_eq!(gaps.len(), 12);
        assert!(gaps[0] < 0.2, "{gaps:?}");
        assert_eq!(gaps[11] > 1.5, slow, "{gaps:?}");
        assert!(queues.prefetches()[1..].iter().all(|prefetch| *prefetch == 1));
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_finishes_and_acknowledges_what_has_begun_and_begins_nothing() {
    let (queues, store, gate) =
        (ScriptedQueues::default(), ScriptedStore::default(), Arc::new(Semaphore::new(0)));
    store.set_reply(Call::Begin, Reply::Waits(gate.clone()));
    queues.put(batches(3));
    let running = RunningConsumer::start(consumer(&queues, &store));
    tokio::time::sleep(seconds(1)).await;
    let finishes = async {
        tokio::time::sleep(seconds(2)).await;
        gate.add_permits(3);
    };
    let (took, ()) = tokio::join!(running.stop(), finishes);
    assert_eq!(took.as_secs(), 2);
    assert_eq!((queues.acknowledged(), queues.ready()), (ids(1), ids(3)[1..].to_vec()));
    assert_eq!((store.calls(Call::Begin), queues.delivered()), (1, 3));
    assert_eq!(queues.prefetches(), [FULL], "no subscription is opened after the shutdown");
}

#[tokio::test(start_paused = true)]
async fn a_unit_of_work_that_hangs_is_abandoned_after_the_shutdown_timeout() {
    let (queues, store) = (ScriptedQueues::default(), ScriptedStore::default());
    store.set_reply(Call::Begin, Reply::Waits(Arc::new(Semaphore::new(0))));
    queues.put(batches(2));
    queues.mark_all_redelivered();
    let running = RunningConsumer::start(consumer(&queues, &store));
    tokio::time::sleep(seconds(1)).await;
    assert_eq!(store.unfinished_starts(STOCK, &id(0)).await, 1);
    assert_eq!(running.stop().await.as_secs(), 8);
    assert_eq!((queues.acknowledged(), queues.ready()), (vec![], ids(2)));
    assert_eq!(store.unfinished_starts(STOCK, &id(0)).await, 0, "the abandoned start is reverted");
}

#[tokio::test(start_paused = true)]
async fn only_handled_or_recorded_messages_are_acknowledged() {
    let (queues, store) = (ScriptedQueues::default(), ScriptedStore::default());
    store.set_load_reply("BLOCKED", Reply::Fails(unavailable()));
    let mut messages = batches(20);
    messages[10] = batch(&id(10), "BLOCKED").message;
    messages[11] = rejected_change(&id(11)).message;
    queues.put(messages);
    let running = RunningConsumer::start(Consumer {
        partitions: 2,
        requeue_after: seconds(600),
        ..consumer(&queues, &store)
    });
    tokio::time::sleep(seconds(60)).await;
    assert_eq!(queues.prefetches(), [FULL]);
    running.stop().await;
    let (acknowledged, ready) = (queues.acknowledged(), queues.ready());
    assert!(
        ready.contains(&id(10)) && acknowledged.len() > 8,
        "acknowledged {acknowledged:?}, ready {ready:?}"
    );
    assert!(ready.is_sorted(), "{ready:?}");
    let handled: BTreeSet<_> = store.commits().into_iter().flat_map(|commit| commit.handled).collect();
    let failed = store.failures().into_iter().filter_map(|failure| failure.key.message_id);
    let expected: BTreeSet<_> = handled.into_iter().chain(failed.map(|id| id.to_string())).collect();
    assert_eq!(acknowledged.iter().cloned().collect::<BTreeSet<_>>(), expected);
    assert_eq!(acknowledged.len() + ready.len(), 20);
}

/// A panic outside of the handler ends the partition. It counts as a crash, and the neighbours of the message are handled.
#[tokio::test(start_paused = true)]
async fn a_message_that_crashes_its_partition_is_dead_lettered() {
    let (queues, store) = (ScriptedQueues::default(), ScriptedStore::default());
    store.set_load_reply("PANICS", Reply::Panics);
    let mut messages = batches(5);
    messages[2] = batch(&id(2), "PANICS").message;
    queues.put(messages);
    let running = RunningConsumer::start(Consumer { max_batch: 50, ..consumer(&queues, &store) });
    tokio::time::sleep(seconds(60)).await;
    assert!(queues.ready().is_empty());
    let failures = store.failures();
    assert_eq!(failures.len(), 1);
    assert_eq!((failures[0].next, failures[0].attempts), (RetryDecision::Dead(Reason::CrashLoop), 1));
    assert_eq!(failures[0].key.message_id.as_deref(), Some(&*id(2)));
    let mut handled: Vec<_> = store.commits().into_iter().flat_map(|commit| commit.handled).collect();
    handled.sort_unstable();
    assert_eq!(handled, [id(0), id(1), id(3), id(4)]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn lines_of_one_sku_are_handled_in_their_order_beside_other_partitions() {
    let (queues, store) = (ScriptedQueues::default(), ScriptedStore::default());
    let skus = ["LAMP", "VASE", "SOFA"];
    bus(&store).handle_all(STOCK, &mut skus.map(|sku| batch(sku, sku))).await.unwrap();
    let lines = (0..60).map(|i| line(&id(i), skus[i % 3], 1).message);
    let queue = QueueName::Orders;
    let running =
        RunningConsumer::start(Consumer { queue, partitions: 8, max_batch: 3, ..consumer(&queues, &store) });
    queues.put(lines);
    tokio::time::sleep(seconds(1)).await;
    let handled: Vec<_> = store.commits().into_iter().flat_map(|commit| commit.handled).collect();
    assert_eq!(handled.len(), 63);
    for sku in 0..3 {
        let of_sku: Vec<_> =
            handled.iter().filter(|handled| (0..20).any(|i| **handled == id(3 * i + sku))).collect();
        assert!(of_sku.is_sorted(), "{of_sku:?}");
    }
    running.stop().await;
}

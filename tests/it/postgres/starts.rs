//! Unfinished starts: counted per queue, and reverted when a process returns messages without a crash.

use std::sync::Arc;

use allocation::ports::{
    queue::QueueName,
    store::{ChangeSet, Store},
};

use crate::harness::Database;

const QUEUES: [QueueName; 2] = [QueueName::Orders, QueueName::Stock];

fn ids(ids: &[&str]) -> Vec<Arc<str>> {
    ids.iter().map(|id| (*id).into()).collect()
}

/// Records two starts of `m1` and `m2` in one queue and three in the other.
async fn record_starts(store: &dyn Store) {
    for (queue, times) in QUEUES.into_iter().zip([2, 3]) {
        for _ in 0..times {
            store.record_starts(queue, &ids(&["m1", "m2", "m1"])).await.unwrap();
        }
    }
}

async fn unfinished_starts(store: &dyn Store) -> [Vec<u32>; 2] {
    let asked = ids(&["m2", "unknown", "m1"]);
    let orders = store.unfinished_starts(QueueName::Orders, &asked).await.unwrap();
    [orders, store.unfinished_starts(QueueName::Stock, &asked).await.unwrap()]
}

#[tokio::test]
async fn starts_are_counted_per_queue_and_once_per_message() {
    let db = Database::new().await;
    let store = db.store();
    record_starts(&*store).await;
    assert_eq!(unfinished_starts(&*store).await, [[2, 0, 2], [3, 0, 3]]);
}

#[tokio::test]
async fn starts_are_cleared_only_in_the_queue_of_the_message() {
    let db = Database::new().await;
    let store = db.store();
    record_starts(&*store).await;
    db.commit(QueueName::Orders, &[], ChangeSet { ended: ids(&["m1"]), ..ChangeSet::default() }).await;
    assert_eq!(unfinished_starts(&*store).await, [[2, 0, 0], [3, 0, 3]]);
}

#[tokio::test]
async fn one_start_per_message_is_reverted_and_no_count_is_below_zero() {
    let db = Database::new().await;
    let store = db.store();
    record_starts(&*store).await;
    let back = ids(&["m1", "never-started", "m1"]);
    store.revert_starts(QueueName::Orders, &back).await.unwrap();
    assert_eq!(unfinished_starts(&*store).await, [[2, 0, 1], [3, 0, 3]]);
    store.revert_starts(QueueName::Orders, &back).await.unwrap();
    assert_eq!(unfinished_starts(&*store).await, [[2, 0, 0], [3, 0, 3]]);
    let rows = "select count(*) from message_starts where queue = 'orders'";
    assert_eq!(db.count(rows).await, 1, "a message without starts has no row");
    store.revert_starts(QueueName::Orders, &back).await.unwrap();
    assert_eq!(unfinished_starts(&*store).await, [[2, 0, 0], [3, 0, 3]]);
    store.record_starts(QueueName::Orders, &ids(&["m1"])).await.unwrap();
    assert_eq!(unfinished_starts(&*store).await, [[2, 0, 1], [3, 0, 3]]);
}

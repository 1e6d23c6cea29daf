//! The contract of failed messages: a transaction counts, records and resolves them.

use std::time::Duration;

use allocation::{
    adapters::memory::MemoryStore,
    domain::{BodyHash, FailedMessageKey, NewAttempt, Reason, RetryDecision},
    ports::{queue::QueueName, store::ChangeSet},
};

use crate::harness::TestSystem;

use super::{AnyStore, begin, message_key};

every_store!(
    attempts_are_counted_while_a_message_is_retrying,
    an_attempt_of_an_outdated_copy_is_not_recorded,
    a_handled_message_is_resolved,
    handling_another_body_resolves_nothing,
    a_failed_message_belongs_to_its_queue,
);

const LATER: RetryDecision = RetryDecision::Retry(Duration::from_hours(1));
const DEAD: RetryDecision = RetryDecision::Dead(Reason::Rejected);

fn failed_message_key(body: u8) -> FailedMessageKey {
    FailedMessageKey {
        message_id: Some("m1".into()),
        kind: "allocate".into(),
        body_hash: BodyHash([body; 16]),
    }
}

/// Records a failed attempt of `m1` with the body 1.
async fn fail(store: &AnyStore, queue: QueueName, generation: i64, attempts: u32, next: RetryDecision) {
    let attempt = NewAttempt {
        key: failed_message_key(1),
        ordering_key: None,
        overtaken_by: None,
        generation,
        body: b"{}".as_slice().into(),
        properties: "{}".into(),
        original: Vec::new(),
        error: "an error".into(),
        error_pattern: "an error".into(),
        error_group: "group".into(),
        chain: Vec::new(),
        attempts,
        duration: Duration::ZERO,
        trace_id: None,
        host: "host".into(),
        next,
    };
    let work = ChangeSet { failures: vec![attempt], ..ChangeSet::default() };
    store.begin(queue).await.unwrap().commit(work).await.unwrap();
}

/// The counted attempts of `m1` with the bodies 1 and 2.
async fn counted_attempts(store: &AnyStore, queue: QueueName) -> Vec<u32> {
    let mut tx = store.begin(queue).await.unwrap();
    let counted = tx.failed_attempts(&[1, 2].map(failed_message_key)).await.unwrap();
    tx.rollback().await;
    counted
}

async fn attempts_are_counted_while_a_message_is_retrying(store: AnyStore) {
    let orders = QueueName::Orders;
    assert_eq!(counted_attempts(&store, orders).await, [0, 0]);
    fail(&store, orders, 0, 1, LATER).await;
    assert_eq!(counted_attempts(&store, orders).await, [1, 0]);
    fail(&store, orders, 1, 2, DEAD).await;
    assert_eq!(counted_attempts(&store, orders).await, [0, 0], "it is dead");
    fail(&store, orders, 0, 1, LATER).await;
    assert_eq!(counted_attempts(&store, orders).await, [1, 0], "its sender sent it again");
}

async fn an_attempt_of_an_outdated_copy_is_not_recorded(store: AnyStore) {
    let orders = QueueName::Orders;
    fail(&store, orders, 0, 1, LATER).await;
    fail(&store, orders, 0, 2, DEAD).await;
    assert_eq!(counted_attempts(&store, orders).await, [1, 0], "a redelivery of a retrying message");
    fail(&store, orders, 1, 2, LATER).await;
    fail(&store, orders, 1, 3, DEAD).await;
    assert_eq!(counted_attempts(&store, orders).await, [2, 0], "generation 1 is outdated");
    fail(&store, orders, 2, 3, LATER).await;
    assert_eq!(counted_attempts(&store, orders).await, [3, 0]);
}

async fn a_handled_message_is_resolved(store: AnyStore) {
    let handle = async |body: u8| {
        let mut tx = begin(&store).await;
        tx.check_inbox(&[message_key("m1", body)]).await.unwrap();
        tx.commit(ChangeSet { handled: vec!["m1".into()], ..ChangeSet::default() }).await.unwrap();
    };
    fail(&store, QueueName::Orders, 0, 1, LATER).await;
    handle(1).await;
    assert_eq!(counted_attempts(&store, QueueName::Orders).await, [0, 0]);
    fail(&store, QueueName::Orders, 1, 2, LATER).await;
    assert_eq!(counted_attempts(&store, QueueName::Orders).await, [0, 0], "its copies are outdated");
}

async fn handling_another_body_resolves_nothing(store: AnyStore) {
    fail(&store, QueueName::Orders, 0, 1, LATER).await;
    let mut tx = begin(&store).await;
    tx.check_inbox(&[message_key("m1", 2)]).await.unwrap();
    tx.commit(ChangeSet { handled: vec!["m1".into()], ..ChangeSet::default() }).await.unwrap();
    assert_eq!(counted_attempts(&store, QueueName::Orders).await, [1, 0]);
}

async fn a_failed_message_belongs_to_its_queue(store: AnyStore) {
    fail(&store, QueueName::Orders, 0, 1, LATER).await;
    assert_eq!(counted_attempts(&store, QueueName::Stock).await, [0, 0]);
    fail(&store, QueueName::Stock, 0, 4, LATER).await;
    assert_eq!(counted_attempts(&store, QueueName::Orders).await, [1, 0]);
}

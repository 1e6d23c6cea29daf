//! The contract of retries: their schedule in the leader session, and the check of their copies in a transaction.

use std::time::Duration;

use allocation::{
    domain::{BodyHash, FailedMessageKey, MessageKey, NewAttempt, Reason, RetryDecision, Status},
    ports::{
        failed_messages::DueRetry,
        outbox::RetryFeed,
        queue::{QueueName, RetryMark},
        store::{ChangeSet, RetryCheck},
    },
};
use uuid::Uuid;

use super::adapters::{Adapters, every_outbox};

/// Longer than any of these tests takes.
const LATER: Duration = Duration::from_hours(1);

every_outbox!(
    a_retry_is_due_after_its_delay,
    a_published_retry_is_not_due_again,
    an_attempt_that_is_not_recorded_schedules_nothing,
    a_deferred_retry_is_due_a_few_seconds_later,
    a_deferred_retry_has_its_reason_until_it_is_published,
    a_rejected_retry_is_dead,
    outcomes_of_an_outdated_copy_change_nothing,
    a_handled_message_is_not_retried,
    only_the_current_copy_of_a_retrying_message_may_be_handled,
);

pub(super) fn attempt(message_id: &str, generation: i64, next: RetryDecision) -> NewAttempt {
    NewAttempt {
        key: FailedMessageKey {
            message_id: Some(message_id.into()),
            kind: "allocate".into(),
            body_hash: BodyHash([1; 16]),
        },
        ordering_key: None,
        overtaken_by: None,
        generation,
        body: b"a body".as_slice().into(),
        properties: "{}".into(),
        original: b"{}".into(),
        error: "it failed".into(),
        error_pattern: "it failed".into(),
        error_group: "group-1".into(),
        chain: Vec::new(),
        attempts: 1,
        duration: Duration::ZERO,
        trace_id: None,
        host: "test".into(),
        next,
    }
}

pub(super) async fn fail(adapters: &Adapters, attempt: NewAttempt) {
    adapters.commit(ChangeSet { failures: vec![attempt], ..ChangeSet::default() }).await;
}

/// Records a failed attempt whose retry is due immediately.
pub(super) async fn fail_now(adapters: &Adapters, message_id: &str) {
    fail(adapters, attempt(message_id, 0, RetryDecision::Retry(Duration::ZERO))).await;
}

/// The only retry that is due.
pub(super) async fn due(session: &mut dyn RetryFeed) -> DueRetry {
    let mut due = session.due(10, usize::MAX).await.unwrap();
    assert_eq!(due.len(), 1);
    due.remove(0)
}

pub(super) async fn due_ids(session: &mut dyn RetryFeed, at_most: u32) -> Vec<Option<String>> {
    session.due(at_most, usize::MAX).await.unwrap().into_iter().map(|retry| retry.message_id).collect()
}

fn ids(message_ids: &[&str]) -> Vec<Option<String>> {
    message_ids.iter().map(|id| Some(id.to_string())).collect()
}

async fn a_retry_is_due_after_its_delay(adapters: Adapters) {
    let mut session = adapters.lead().await;
    assert_eq!(session.pending().await.unwrap().retry_in, None);
    fail(&adapters, attempt("later", 0, RetryDecision::Retry(LATER))).await;
    let retry_in = session.pending().await.unwrap().retry_in.unwrap();
    assert!(retry_in > LATER / 2 && retry_in <= LATER, "{retry_in:?}");
    assert_eq!(due_ids(&mut *session, 10).await, []);
    fail_now(&adapters, "first").await;
    fail_now(&adapters, "second").await;
    assert_eq!(session.pending().await.unwrap().retry_in, Some(Duration::ZERO));
    assert_eq!(due_ids(&mut *session, 10).await, ids(&["first", "second"]));
    assert_eq!(due_ids(&mut *session, 1).await, ids(&["first"]));
    let retry = session.due(1, usize::MAX).await.unwrap().remove(0);
    let content = (retry.queue.as_str(), retry.kind.as_str(), &retry.body[..], &retry.original[..]);
    assert_eq!(content, ("orders", "allocate", &b"a body"[..], &b"{}"[..]));
}

async fn a_published_retry_is_not_due_again(adapters: Adapters) {
    fail_now(&adapters, "m1").await;
    let mut session = adapters.lead().await;
    let retry = due(&mut *session).await;
    session.published(&[&retry]).await.unwrap();
    assert_eq!(session.pending().await.unwrap().retry_in, None);
    assert_eq!(due_ids(&mut *session, 10).await, []);
}

/// A redelivery of the message fails while a copy of it is in the queue.
async fn an_attempt_that_is_not_recorded_schedules_nothing(adapters: Adapters) {
    fail_now(&adapters, "m1").await;
    let mut session = adapters.lead().await;
    let retry = due(&mut *session).await;
    session.published(&[&retry]).await.unwrap();
    fail_now(&adapters, "m1").await;
    assert_eq!(due_ids(&mut *session, 10).await, []);
}

async fn a_deferred_retry_is_due_a_few_seconds_later(adapters: Adapters) {
    fail_now(&adapters, "m1").await;
    let mut session = adapters.lead().await;
    let retry = due(&mut *session).await;
    session.defer(&[&retry], "the queue is full").await.unwrap();
    let retry_in = session.pending().await.unwrap().retry_in.unwrap();
    assert!(!retry_in.is_zero() && retry_in <= Duration::from_secs(5), "{retry_in:?}");
    assert_eq!(due_ids(&mut *session, 10).await, []);
}

async fn a_deferred_retry_has_its_reason_until_it_is_published(adapters: Adapters) {
    fail_now(&adapters, "m1").await;
    let mut session = adapters.lead().await;
    let retry = due(&mut *session).await;
    assert_eq!(adapters.failed_message(retry.id).await.held_because, None);
    for reason in ["the queue or its binding does not exist", "the queue is full"] {
        session.defer(&[&retry], reason).await.unwrap();
        let deferred = adapters.failed_message(retry.id).await;
        assert_eq!((deferred.status, deferred.held_because.as_deref()), (Status::Retrying, Some(reason)));
    }
    session.published(&[&retry]).await.unwrap();
    assert_eq!(adapters.failed_message(retry.id).await.held_because, None);
}

async fn a_rejected_retry_is_dead(adapters: Adapters) {
    fail_now(&adapters, "m1").await;
    let mut session = adapters.lead().await;
    let retry = due(&mut *session).await;
    session.reject(&retry, "too large").await.unwrap();
    assert_eq!(session.pending().await.unwrap().retry_in, None);
    let dead = adapters.failed_message(retry.id).await;
    assert_eq!(dead.status, Status::Dead(Reason::InvalidMessage));
    assert_eq!(dead.error, "the broker rejected the retry: too large");
    let mut tx = adapters.store.begin(QueueName::Orders).await.unwrap();
    let key = attempt("m1", 0, RetryDecision::Retry(LATER)).key;
    assert_eq!(tx.failed_attempts(&[key]).await.unwrap(), [0], "only a retrying message counts its attempts");
    tx.rollback().await;
}

async fn outcomes_of_an_outdated_copy_change_nothing(adapters: Adapters) {
    fail_now(&adapters, "m1").await;
    let mut session = adapters.lead().await;
    let outdated = due(&mut *session).await;
    fail(&adapters, attempt("m1", outdated.generation, RetryDecision::Retry(Duration::ZERO))).await;
    let current = due(&mut *session).await;
    assert!(current.generation > outdated.generation);
    session.published(&[&outdated]).await.unwrap();
    session.defer(&[&outdated], "the queue is full").await.unwrap();
    session.reject(&outdated, "too large").await.unwrap();
    assert_eq!(due(&mut *session).await, current);
}

async fn a_handled_message_is_not_retried(adapters: Adapters) {
    fail_now(&adapters, "m1").await;
    let mut session = adapters.lead().await;
    let key = MessageKey { message_id: "m1".into(), kind: "allocate", body_hash: BodyHash([1; 16]) };
    let mut tx = adapters.store.begin(QueueName::Orders).await.unwrap();
    tx.check_inbox(&[key]).await.unwrap();
    tx.commit(ChangeSet { handled: vec!["m1".into()], ..ChangeSet::default() }).await.unwrap();
    assert_eq!(session.pending().await.unwrap().retry_in, None);
    assert_eq!(due_ids(&mut *session, 10).await, []);
}

async fn only_the_current_copy_of_a_retrying_message_may_be_handled(adapters: Adapters) {
    fail_now(&adapters, "m1").await;
    let mut session = adapters.lead().await;
    let DueRetry { id, generation, secret, .. } = due(&mut *session).await;
    let mark = |generation| RetryMark { failed_message_id: id, generation, secret };
    let forged = RetryMark { secret: Uuid::from_u128(u128::MAX), ..mark(generation) };
    let marks = [mark(generation), mark(generation + 1), forged];
    let check = async |queue| {
        let mut tx = adapters.store.begin(queue).await.unwrap();
        let checks = tx.check_retries(&marks).await.unwrap();
        tx.rollback().await;
        checks
    };
    let expected = [RetryCheck::Current, RetryCheck::Outdated, RetryCheck::Unknown];
    assert_eq!(check(QueueName::Orders).await, expected);
    assert_eq!(check(QueueName::Stock).await, [RetryCheck::Unknown; 3], "it belongs to another queue");
    let retry = due(&mut *session).await;
    session.reject(&retry, "too large").await.unwrap();
    let expected = [RetryCheck::Outdated, RetryCheck::Outdated, RetryCheck::Unknown];
    assert_eq!(check(QueueName::Orders).await, expected);
}

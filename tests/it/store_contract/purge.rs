//! The contract of the purge: which rows it removes after their retention, and which retries it makes due again.

use std::time::Duration;

use allocation::{
    domain::{BodyHash, MessageKey, Reason, RetryDecision},
    ports::{
        failed_messages::DueRetry,
        outbox::{Retention, Upkeep},
        queue::{QueueName, RetryMark},
        store::{ChangeSet, InboxCheck, RetryCheck, Tx},
    },
};

use super::{
    adapters::{Adapters, every_outbox},
    retries::{attempt, due, due_ids, fail, fail_now},
};

every_outbox!(
    handled_messages_leave_the_inbox_after_their_retention,
    an_id_stays_in_the_inbox_while_a_failed_message_has_it,
    only_resolved_messages_are_removed_after_their_retention,
    starts_are_removed_after_the_retention_of_the_inbox,
    retries_that_may_be_lost_are_due_again_at_intervals_that_double,
);

const ORDERS: QueueName = QueueName::Orders;
const RETENTION: Retention = Retention { inbox: hours(24), failures: hours(72), published: hours(24) };

const fn hours(hours: u64) -> Duration {
    Duration::from_hours(hours)
}

fn minutes(minutes: u64) -> Duration {
    Duration::from_mins(minutes)
}

async fn purge(session: &mut dyn Upkeep) {
    assert!(!session.purge(RETENTION).await.unwrap().is_incomplete, "there are few rows");
}

async fn begin(adapters: &Adapters) -> Box<dyn Tx> {
    adapters.store.begin(ORDERS).await.unwrap()
}

fn message_key(message_id: &str) -> MessageKey {
    MessageKey { message_id: message_id.into(), kind: "allocate", body_hash: BodyHash([1; 16]) }
}

async fn handle(adapters: &Adapters, message_id: &str) {
    let mut tx = begin(adapters).await;
    tx.check_inbox(&[message_key(message_id)]).await.unwrap();
    tx.commit(ChangeSet { handled: vec![message_id.into()], ..ChangeSet::default() }).await.unwrap();
}

async fn check_inbox(adapters: &Adapters, message_id: &str) -> InboxCheck {
    let mut tx = begin(adapters).await;
    let checks = tx.check_inbox(&[message_key(message_id)]).await.unwrap();
    tx.rollback().await;
    checks[0]
}

async fn handled_messages_leave_the_inbox_after_their_retention(adapters: Adapters) {
    let mut session = adapters.lead().await;
    handle(&adapters, "m1").await;
    adapters.pass_time(hours(23)).await;
    handle(&adapters, "m2").await;
    purge(&mut *session).await;
    assert_eq!(check_inbox(&adapters, "m1").await, InboxCheck::Duplicate);
    adapters.pass_time(hours(2)).await;
    purge(&mut *session).await;
    assert_eq!(check_inbox(&adapters, "m1").await, InboxCheck::New);
    assert_eq!(check_inbox(&adapters, "m2").await, InboxCheck::Duplicate);
}

/// Otherwise a retry of the failed message, for example after an edit, would take effect although its id was used.
async fn an_id_stays_in_the_inbox_while_a_failed_message_has_it(adapters: Adapters) {
    let mut session = adapters.lead().await;
    for message_id in ["m1", "m2", "m3"] {
        handle(&adapters, message_id).await;
    }
    let other_body = |message_id, next| {
        let mut attempt = attempt(message_id, 0, next);
        attempt.key.body_hash = BodyHash([2; 16]);
        attempt
    };
    fail(&adapters, other_body("m1", RetryDecision::Dead(Reason::MessageIdConflict))).await;
    fail(&adapters, other_body("m2", RetryDecision::Retry(hours(1)))).await;
    adapters.pass_time(hours(25)).await;
    purge(&mut *session).await;
    assert_eq!(check_inbox(&adapters, "m1").await, InboxCheck::Duplicate);
    assert_eq!(check_inbox(&adapters, "m2").await, InboxCheck::Duplicate);
    assert_eq!(check_inbox(&adapters, "m3").await, InboxCheck::New);
}

fn mark(retry: &DueRetry) -> RetryMark {
    RetryMark { failed_message_id: retry.id, generation: retry.generation, secret: retry.secret }
}

/// The check of a retry mark shows whether its failed message exists.
async fn only_resolved_messages_are_removed_after_their_retention(adapters: Adapters) {
    let mut session = adapters.lead().await;
    for message_id in ["resolved", "dead", "retrying"] {
        fail_now(&adapters, message_id).await;
    }
    let retries = session.due(10, usize::MAX).await.unwrap();
    handle(&adapters, "resolved").await;
    session.reject(&retries[1], "too large").await.unwrap();
    let marks: Vec<_> = retries.iter().map(mark).collect();
    let check = async || {
        let mut tx = begin(&adapters).await;
        let checks = tx.check_retries(&marks).await.unwrap();
        tx.rollback().await;
        checks
    };
    adapters.pass_time(hours(71)).await;
    purge(&mut *session).await;
    assert_eq!(check().await, [RetryCheck::Outdated, RetryCheck::Outdated, RetryCheck::Current]);
    adapters.pass_time(hours(2)).await;
    purge(&mut *session).await;
    assert_eq!(check().await, [RetryCheck::Unknown, RetryCheck::Outdated, RetryCheck::Current]);
}

async fn starts_are_removed_after_the_retention_of_the_inbox(adapters: Adapters) {
    let (mut session, ids) = (adapters.lead().await, ["m1".into(), "m2".into()]);
    adapters.store.record_starts(ORDERS, &ids).await.unwrap();
    adapters.pass_time(hours(23)).await;
    adapters.store.record_starts(ORDERS, &ids[1..]).await.unwrap();
    purge(&mut *session).await;
    assert_eq!(adapters.store.unfinished_starts(ORDERS, &ids).await.unwrap(), [1, 2]);
    adapters.pass_time(hours(2)).await;
    purge(&mut *session).await;
    assert_eq!(adapters.store.unfinished_starts(ORDERS, &ids).await.unwrap(), [0, 2]);
}

async fn retries_that_may_be_lost_are_due_again_at_intervals_that_double(adapters: Adapters) {
    let mut session = adapters.lead().await;
    for message_id in ["m1", "handled"] {
        fail_now(&adapters, message_id).await;
    }
    let retries = session.due(10, usize::MAX).await.unwrap();
    session.published(&retries.iter().collect::<Vec<_>>()).await.unwrap();
    handle(&adapters, "handled").await;
    // Minutes without another publication, and a few minutes more.
    for (not_due, more) in [(59, 2), (60, 3), (120, 6)] {
        adapters.pass_time(minutes(not_due)).await;
        purge(&mut *session).await;
        assert_eq!(due_ids(&mut *session, 10).await, [], "after {not_due} minutes");
        adapters.pass_time(minutes(more)).await;
        purge(&mut *session).await;
        let retry = due(&mut *session).await;
        assert_eq!(retry.message_id.as_deref(), Some("m1"));
        session.published(&[&retry]).await.unwrap();
    }
}

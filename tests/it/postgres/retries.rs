//! Due retries, and the outcomes of their publication.

use std::time::Duration;

use allocation::{
    domain::RetryDecision,
    ports::{failed_messages::DueRetry, outbox::RetryFeed, queue::QueueName, store::ChangeSet},
};
use serde_json::json;

use crate::harness::{Database, Row};

use super::{DEAD, DISCARDED, RESOLVED, STATUSES, failed_message_key, failure};

/// The columns of a retrying message.
fn due(in_seconds: i64) -> String {
    format!("status = 'retrying', reason = null, due_at = now() + interval '{in_seconds} seconds'")
}

/// The statuses of messages without a due copy, whatever their `due_at`.
fn not_retrying() -> impl Iterator<Item = (&'static str, &'static str)> {
    let with_due_time = STATUSES.into_iter().filter(|(status, _)| *status != "retrying");
    with_due_time.map(|(status, columns)| (status, columns.trim_end_matches(", due_at = null")))
}

async fn due_ids(session: &mut dyn RetryFeed, at_most: u32) -> Vec<i64> {
    session.due(at_most, usize::MAX).await.unwrap().iter().map(|retry| retry.id).collect()
}

#[tokio::test]
async fn due_retries_come_in_the_order_of_their_due_times() {
    let db = Database::new().await;
    let a_little = db.failed("a-little", &due(-1)).await;
    let long = db.failed("long", &due(-100)).await;
    let in_between = db.failed("in-between", &due(-10)).await;
    db.failed("later", &due(3600)).await;
    db.failed("published", &format!("{}, published_at = now()", due(-50))).await;
    for (status, columns) in not_retrying() {
        db.failed(status, &format!("{columns}, due_at = now() - interval '1 hour'")).await;
    }
    let mut session = db.lead().await;
    assert_eq!(due_ids(&mut *session, 10).await, [long, in_between, a_little]);
    assert_eq!(due_ids(&mut *session, 2).await, [long, in_between]);
    let retries = session.due(2, usize::MAX).await.unwrap();
    session.published(&[&retries[0]]).await.unwrap();
    assert_eq!(due_ids(&mut *session, 10).await, [in_between, a_little], "each copy is published once");
}

#[tokio::test]
async fn a_due_retry_has_the_content_of_its_row() {
    let db = Database::new().await;
    let id = db.failed("m1", &format!("{}, queue = 'stock', edited = true", due(-1))).await;
    let secret = db.row(id).await.column("secret").as_str().unwrap().parse().unwrap();
    let expected = DueRetry {
        id,
        generation: 4,
        queue: "stock".into(),
        message_id: Some("m1".into()),
        kind: "allocate".into(),
        body: b"one".into(),
        original: b"original".into(),
        edited: true,
        secret,
    };
    assert_eq!(db.lead().await.due(10, usize::MAX).await.unwrap(), [expected]);
}

/// At most 16 MiB of bodies, but at least one message.
#[tokio::test]
async fn large_bodies_come_in_small_batches() {
    let db = Database::new().await;
    let body = |mebibytes: u32| format!("body = convert_to(repeat(' ', {mebibytes} << 20), 'UTF8')");
    let mut large = Vec::new();
    for (number, mebibytes) in [17, 7, 7, 7, 1].into_iter().enumerate() {
        let columns = format!("{}, {}", due(-100 + i64::try_from(number).unwrap()), body(mebibytes));
        large.push(db.failed(&format!("m{number}"), &columns).await);
    }
    let mut session = db.lead().await;
    for expected in [&large[..1], &large[1..3], &large[3..]] {
        let retries = session.due(10, 16 << 20).await.unwrap();
        assert_eq!(retries.iter().map(|retry| retry.id).collect::<Vec<_>>(), expected);
        session.published(&retries.iter().collect::<Vec<_>>()).await.unwrap();
    }
}

/// The outcome of a publication.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    Published,
    Deferred,
    Rejected,
}

impl Outcome {
    const ALL: [Self; 3] = [Self::Published, Self::Deferred, Self::Rejected];

    async fn record(self, session: &mut dyn RetryFeed, retry: &DueRetry) {
        match self {
            Self::Published => session.published(&[retry]).await,
            Self::Deferred => session.defer(&[retry], "no queue").await,
            Self::Rejected => session.reject(retry, "too large").await,
        }
        .unwrap();
    }

    /// The changes of a row whose copy is current.
    fn changes(self) -> serde_json::Value {
        match self {
            Self::Published => json!({ "published_at": "now", "held_because": null }),
            Self::Deferred => json!({ "held_because": "no queue", "due_at": "in 5 s" }),
            Self::Rejected => json!({
                "status": "dead", "reason": "invalid_message", "due_at": null, "last_failed_at": "now",
                "error": "the broker rejected the retry: too large",
                "error_pattern": "the broker rejected the retry: too large"
            }),
        }
    }
}

/// The changes of a row, without the error group, which is a hash.
fn changes(after: &Row, before: &Row) -> serde_json::Value {
    let mut changes = after.changes_since(before);
    changes.as_object_mut().unwrap().remove("error_group");
    changes
}

#[tokio::test]
async fn the_outcome_of_a_copy_changes_only_its_own_row() {
    let db = Database::new().await;
    let mut session = db.lead().await;
    for outcome in Outcome::ALL {
        let held = format!("{}, held_because = 'earlier'", due(-10));
        let (id, other) = (db.failed("m1", &held).await, db.failed("m2", &held).await);
        let before = (db.row(id).await, db.row(other).await);
        let retries = session.due(10, usize::MAX).await.unwrap();
        outcome.record(&mut *session, &retries[0]).await;
        assert_eq!(changes(&db.row(id).await, &before.0), outcome.changes(), "{outcome:?}");
        assert_eq!(db.row(other).await.changes_since(&before.1), json!({}), "{outcome:?}");
        assert_eq!(due_ids(&mut *session, 10).await, [other], "{outcome:?}");
        db.execute("delete from failed_messages").await;
    }
}

/// After the publication the message failed again, was edited, was discarded, or was handled.
#[tokio::test]
async fn the_outcome_of_an_outdated_copy_changes_nothing() {
    let db = Database::new().await;
    let mut session = db.lead().await;
    for outcome in Outcome::ALL {
        for meanwhile in ["generation = 5, held_because = 'x'", DEAD, DISCARDED, RESOLVED] {
            let id = db.failed("m1", &due(-10)).await;
            let retry = session.due(10, usize::MAX).await.unwrap().remove(0);
            db.execute(&format!("update failed_messages set {meanwhile}")).await;
            let before = db.row(id).await;
            outcome.record(&mut *session, &retry).await;
            assert_eq!(db.row(id).await.changes_since(&before), json!({}), "{outcome:?}, {meanwhile}");
            db.execute("delete from failed_messages").await;
        }
    }
}

/// Operators and workers lock rows in the same order.
#[tokio::test]
async fn outcomes_of_copies_lock_their_rows_in_the_order_of_their_ids() {
    for outcome in [Outcome::Published, Outcome::Deferred] {
        let db = Database::new().await;
        let (first, second) = (db.failed("m1", &due(-10)).await, db.failed("m2", &due(-20)).await);
        let mut session = db.lead().await;
        let retries = session.due(10, usize::MAX).await.unwrap();
        assert_eq!(retries.iter().map(|retry| retry.id).collect::<Vec<_>>(), [second, first]);
        let mut other = db.pool.begin().await.unwrap();
        sqlx::query("select from failed_messages where id = $1 for update")
            .bind(first)
            .execute(&mut *other)
            .await
            .unwrap();
        let recorded = tokio::spawn(async move {
            let retries: Vec<_> = retries.iter().collect();
            match outcome {
                Outcome::Published => session.published(&retries).await,
                _ => session.defer(&retries, "no queue").await,
            }
        });
        db.wait_until_blocked(1).await;
        let free = "select coalesce(sum(id), 0)::bigint
                    from (select id from failed_messages for update skip locked) as free";
        assert_eq!(db.count(free).await, second, "{outcome:?} has locked the second row first");
        other.rollback().await.unwrap();
        recorded.await.unwrap().unwrap();
    }
}

/// An idle relay sleeps until the next retry is due.
#[tokio::test]
async fn pending_work_has_the_time_of_the_next_retry() {
    let db = Database::new().await;
    let mut session = db.lead().await;
    db.failed("published", &format!("{}, published_at = now()", due(-5))).await;
    for (status, columns) in not_retrying() {
        db.failed(status, &format!("{columns}, due_at = now() + interval '1 minute'")).await;
    }
    assert_eq!(session.pending().await.unwrap().retry_in, None);
    db.failed("last", &due(3600)).await;
    db.failed("next", &due(600)).await;
    let soon = session.pending().await.unwrap().retry_in.unwrap();
    assert!((Duration::from_mins(9)..=Duration::from_mins(10)).contains(&soon), "{soon:?}");
    db.failed("now", &due(-1)).await;
    assert_eq!(session.pending().await.unwrap().retry_in, Some(Duration::ZERO));
}

#[tokio::test]
async fn a_failure_is_due_after_the_delay_of_its_attempt() {
    let db = Database::new().await;
    let mut session = db.lead().await;
    let later = failure(
        failed_message_key(Some("m1"), "allocate", 1),
        0,
        RetryDecision::Retry(Duration::from_hours(1)),
    );
    let now = failure(failed_message_key(Some("m2"), "allocate", 1), 0, RetryDecision::Retry(Duration::ZERO));
    db.commit(QueueName::Orders, &[], ChangeSet { failures: vec![later, now], ..ChangeSet::default() }).await;
    let retries = session.due(10, usize::MAX).await.unwrap();
    assert_eq!(retries.iter().map(|retry| retry.message_id.as_deref()).collect::<Vec<_>>(), [Some("m2")]);
    session.published(&[&retries[0]]).await.unwrap();
    let soon = session.pending().await.unwrap().retry_in.unwrap();
    assert!((Duration::from_mins(59)..=Duration::from_hours(1)).contains(&soon), "{soon:?}");
}

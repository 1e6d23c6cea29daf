//! The low-water mark of the outbox: it is never above a committed, unpublished event, whatever its id.

use std::time::{Duration, Instant};

use allocation::ports::outbox::{EventFeed, LeaderSession, Retention};

use crate::harness::{Database, wait_until};

use super::outbox::{INSERT, commit_events, unpublished};

/// The mark is checked once a second, and rises with the second check unless a transaction prevents it.
const RISES_WITHIN: Duration = Duration::from_secs(10);
/// Within this time the mark rises if it can.
const TWO_CHECKS: Duration = Duration::from_millis(2500);
const YEAR: Duration = Duration::from_hours(24 * 365);

/// Publishes everything repeatedly while the mark could rise.
async fn publish_during_two_checks(session: &mut dyn EventFeed) {
    let begin = Instant::now();
    while begin.elapsed() < TWO_CHECKS {
        let ids = unpublished(session).await;
        session.remove(&ids, &[]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Publishes events and waits until the mark is above their ids: until an event with an earlier id is not read.
async fn lead_with_a_mark(db: &Database, events: usize) -> Box<dyn LeaderSession> {
    commit_events(db, &vec!["A"; events]).await;
    let mut session = db.lead().await;
    let ids = unpublished(&mut *session).await;
    session.remove(&ids, &[]).await.unwrap();
    wait_until("the mark has risen", RISES_WITHIN, async || {
        unpublished(&mut *session).await;
        restore(db, 1).await;
        let hidden = unpublished(&mut *session).await.is_empty();
        db.execute("delete from outbox").await;
        hidden
    })
    .await;
    session
}

/// Inserts an event with an earlier id, as from a backup.
async fn restore(db: &Database, id: i64) {
    db.execute(&format!(
        "insert into outbox (id, name, sku, sequence, body, causation_id, correlation_id)
         overriding system value values ({id}, 'allocated', 'A', 1, '{{}}', 'c', 'c')"
    ))
    .await;
}

/// Events with later ids were published while its transaction was open.
#[tokio::test]
async fn an_event_of_a_long_transaction_is_published_after_its_commit() {
    let db = Database::new().await;
    let mut late = db.pool.begin().await.unwrap();
    sqlx::query(INSERT).bind("LATE").execute(&mut *late).await.unwrap();
    commit_events(&db, &["A", "B"]).await;
    let mut session = db.lead().await;
    assert_eq!(unpublished(&mut *session).await, [2, 3]);
    publish_during_two_checks(&mut *session).await;
    late.commit().await.unwrap();
    assert_eq!(unpublished(&mut *session).await, [1]);
}

/// The transaction gets its id after the relay has read the last id, and before the relay reads the open transactions.
#[tokio::test]
async fn an_event_of_a_transaction_that_began_between_the_relays_statements_is_published() {
    let db = Database::new().await;
    commit_events(&db, &["A"]).await;
    let gate = db.gate_before_the_last_id().await;
    let mut session = db.lead().await;
    let first_read = tokio::spawn(async move {
        let ids = unpublished(&mut *session).await;
        (session, ids)
    });
    db.wait_until_blocked(1).await;
    let mut late = db.pool.begin().await.unwrap();
    sqlx::query(INSERT).bind("LATE").execute(&mut *late).await.unwrap();
    commit_events(&db, &["B"]).await;
    gate.open().await;
    let (mut session, ids) = first_read.await.unwrap();
    assert_eq!(ids, [1, 3]);
    publish_during_two_checks(&mut *session).await;
    late.commit().await.unwrap();
    assert_eq!(unpublished(&mut *session).await, [2]);
}

/// The broker confirms some events and not others, and later ones are removed.
#[tokio::test]
async fn events_that_stay_unpublished_are_still_read() {
    let db = Database::new().await;
    commit_events(&db, &["A", "B", "A", "B", "A"]).await;
    let mut session = db.lead().await;
    session.remove(&[1, 3, 5], &[]).await.unwrap();
    let begin = Instant::now();
    while begin.elapsed() < TWO_CHECKS {
        assert_eq!(unpublished(&mut *session).await, [2, 4]);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// An administrator truncates the outbox, and its ids start with 1 again. The relay polls every second.
#[tokio::test]
async fn after_a_truncate_with_restart_reading_starts_at_the_beginning() {
    let db = Database::new().await;
    let mut session = lead_with_a_mark(&db, 5).await;
    db.execute("truncate outbox restart identity").await;
    session.pending().await.unwrap();
    commit_events(&db, &["A", "B"]).await;
    assert_eq!(unpublished(&mut *session).await, [1, 2]);
}

/// At the next poll the last id is above the mark again; the next purge notices the rows below.
#[tokio::test]
async fn restored_events_with_smaller_ids_are_read_after_the_next_purge() {
    let db = Database::new().await;
    let mut session = lead_with_a_mark(&db, 5).await;
    commit_events(&db, &["B"]).await;
    restore(&db, 2).await;
    restore(&db, 5).await;
    let next = db.count("select last_value from outbox_id_seq").await;
    session.pending().await.unwrap();
    assert_eq!(unpublished(&mut *session).await, [next]);
    session.purge(Retention { inbox: YEAR, failures: YEAR, published: YEAR }).await.unwrap();
    assert_eq!(unpublished(&mut *session).await, [2, 5, next]);
}

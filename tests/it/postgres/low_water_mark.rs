//! Where reading of the outbox begins: never above an event that is committed and not published, whatever its id.

use std::time::{Duration, Instant};

use allocation::ports::outbox::{LeaderSession, Retention};

use crate::harness::{Database, wait_until};

use super::outbox::{INSERT, commit_events, unpublished};

/// The floor is looked at once a second. It rises with the second look, if nothing holds it.
const RISES_WITHIN: Duration = Duration::from_secs(10);
/// In this time a floor that may rise does.
const THREE_LOOKS: Duration = Duration::from_millis(2500);
const YEAR: Duration = Duration::from_hours(24 * 365);

/// Publishes everything, again and again, long enough for the floor to rise.
async fn publish_for_three_looks(lead: &mut dyn LeaderSession) {
    let begin = Instant::now();
    while begin.elapsed() < THREE_LOOKS {
        let ids = unpublished(lead).await;
        lead.remove(&ids, 0).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Publishes `events` events and waits until the floor is above them: until an event with an id below is not seen.
async fn lead_with_a_floor(db: &Database, events: usize) -> Box<dyn LeaderSession> {
    commit_events(db, &vec!["A"; events]).await;
    let mut lead = db.lead().await;
    let ids = unpublished(&mut *lead).await;
    lead.remove(&ids, 0).await.unwrap();
    wait_until("the floor has risen", RISES_WITHIN, async || {
        unpublished(&mut *lead).await;
        restore(db, 1).await;
        let hidden = unpublished(&mut *lead).await.is_empty();
        db.execute("delete from outbox").await;
        hidden
    })
    .await;
    lead
}

/// An event comes back with the id it had, as from a backup.
async fn restore(db: &Database, id: i64) {
    db.execute(&format!(
        "insert into outbox (id, name, sku, sequence, body, causation_id, correlation_id)
         overriding system value values ({id}, 'allocated', 'A', 1, '{{}}', 'c', 'c')"
    ))
    .await;
}

/// Its id is older than everything that was published while it was open.
#[tokio::test]
async fn an_event_of_a_long_transaction_is_published_after_its_commit() {
    let db = Database::new().await;
    let mut late = db.pool.begin().await.unwrap();
    sqlx::query(INSERT).bind("LATE").execute(&mut *late).await.unwrap();
    commit_events(&db, &["A", "B"]).await;
    let mut lead = db.lead().await;
    assert_eq!(unpublished(&mut *lead).await, [2, 3]);
    publish_for_three_looks(&mut *lead).await;
    late.commit().await.unwrap();
    assert_eq!(unpublished(&mut *lead).await, [1]);
}

/// A transaction that is given its id after the relay asked for the last one, and before it asks who is writing.
#[tokio::test]
async fn an_event_of_a_transaction_that_began_between_the_relays_questions_is_published() {
    let db = Database::new().await;
    commit_events(&db, &["A"]).await;
    let gate = db.gate_before_the_last_id().await;
    let mut lead = db.lead().await;
    let first_look = tokio::spawn(async move {
        let ids = unpublished(&mut *lead).await;
        (lead, ids)
    });
    db.wait_until_blocked(1).await;
    let mut late = db.pool.begin().await.unwrap();
    sqlx::query(INSERT).bind("LATE").execute(&mut *late).await.unwrap();
    commit_events(&db, &["B"]).await;
    gate.open().await;
    let (mut lead, ids) = first_look.await.unwrap();
    assert_eq!(ids, [1, 3]);
    publish_for_three_looks(&mut *lead).await;
    late.commit().await.unwrap();
    assert_eq!(unpublished(&mut *lead).await, [2]);
}

/// The broker takes some and not others; what is behind them was published long ago.
#[tokio::test]
async fn events_that_are_not_published_for_long_stay_in_sight() {
    let db = Database::new().await;
    commit_events(&db, &["A", "B", "A", "B", "A"]).await;
    let mut lead = db.lead().await;
    lead.remove(&[1, 3, 5], 0).await.unwrap();
    let begin = Instant::now();
    while begin.elapsed() < THREE_LOOKS {
        assert_eq!(unpublished(&mut *lead).await, [2, 4]);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// An administrator empties the outbox, and ids begin with 1 again. The relay looks every second.
#[tokio::test]
async fn after_a_truncate_with_restart_reading_begins_at_the_beginning() {
    let db = Database::new().await;
    let mut lead = lead_with_a_floor(&db, 5).await;
    db.execute("truncate outbox restart identity").await;
    lead.pending().await.unwrap();
    commit_events(&db, &["A", "B"]).await;
    assert_eq!(unpublished(&mut *lead).await, [1, 2]);
}

/// By its next look the ids are above the floor again; the next sweep finds what is below.
#[tokio::test]
async fn events_that_come_with_smaller_ids_are_found_by_the_next_sweep() {
    let db = Database::new().await;
    let mut lead = lead_with_a_floor(&db, 5).await;
    commit_events(&db, &["B"]).await;
    restore(&db, 2).await;
    restore(&db, 5).await;
    let next = db.count("select last_value from outbox_id_seq").await;
    lead.pending().await.unwrap();
    assert_eq!(unpublished(&mut *lead).await, [next]);
    lead.purge_expired(Retention { inbox: YEAR, failures: YEAR }).await.unwrap();
    assert_eq!(unpublished(&mut *lead).await, [2, 5, next]);
}

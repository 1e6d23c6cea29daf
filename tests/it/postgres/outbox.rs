//! The events that a relay reads, and parked events.

use allocation::ports::outbox::{EventFeed, Outbox as _, ParkedEvents as _};

use crate::harness::Database;

pub(super) const INSERT: &str = "insert into outbox (name, sku, sequence, body, causation_id, correlation_id)
                                 values ('allocated', $1, 1, '{}', 'c', 'c')";

/// Commits one event per SKU, in order; their ids are 1, 2, 3 …
pub(super) async fn commit_events(db: &Database, skus: &[&str]) {
    for sku in skus {
        sqlx::query(INSERT).bind(sku).execute(&db.pool).await.unwrap();
    }
}

pub(super) async fn unpublished(session: &mut dyn EventFeed) -> Vec<i64> {
    window(session, 100, &[]).await
}

async fn window(session: &mut dyn EventFeed, at_most: u32, except: &[&str]) -> Vec<i64> {
    let except: Vec<_> = except.iter().map(ToString::to_string).collect();
    session.unpublished(at_most, &except).await.unwrap().iter().map(|row| row.id).collect()
}

/// The limit of a read does not count events of excluded SKUs.
#[tokio::test]
async fn blocked_skus_do_not_fill_the_window() {
    let db = Database::new().await;
    commit_events(&db, &["A", "A", "A", "B", "C", "B", "A"]).await;
    let mut session = db.lead().await;
    assert_eq!(window(&mut *session, 2, &[]).await, [1, 2]);
    assert_eq!(window(&mut *session, 2, &["A"]).await, [4, 5]);
    assert_eq!(window(&mut *session, 2, &["A", "C"]).await, [4, 6]);
    assert_eq!(window(&mut *session, 9, &["A", "C"]).await, [4, 6]);
}

/// A parked event blocks its own SKU, and no other.
#[tokio::test]
async fn events_behind_a_parked_one_do_not_fill_the_window() {
    let db = Database::new().await;
    commit_events(&db, &["A", "A", "A", "B", "A", "B"]).await;
    let mut session = db.lead().await;
    session.remove(&[1], &[]).await.unwrap();
    session.park(2, "too large").await.unwrap();
    assert_eq!(window(&mut *session, 2, &[]).await, [4, 6]);
    assert!(session.pending().await.unwrap().events);
    session.remove(&[4, 6], &[]).await.unwrap();
    assert!(!session.pending().await.unwrap().events, "the remaining events wait for an operator");
    assert_eq!(db.count("select count(*) from outbox").await, 3);
    assert_eq!(db.text("select refused from outbox where id = 2").await, "too large");
}

#[tokio::test]
async fn only_the_named_events_are_unparked() {
    let db = Database::new().await;
    commit_events(&db, &["A", "B", "C", "D"]).await;
    let mut session = db.lead().await;
    for id in [1, 2, 3] {
        session.park(id, "too large").await.unwrap();
    }
    assert_eq!(unpublished(&mut *session).await, [4]);
    let parked = db.parked_events();
    // 4 is not parked, and 9 does not exist.
    assert_eq!(parked.unpark(Some(&[2, 4, 9])).await.unwrap(), 1);
    assert_eq!(unpublished(&mut *session).await, [2, 4]);
    assert_eq!(parked.unpark(Some(&[])).await.unwrap(), 0);
    assert_eq!(unpublished(&mut *session).await, [2, 4]);
    assert_eq!(parked.unpark(None).await.unwrap(), 2);
    assert_eq!(unpublished(&mut *session).await, [1, 2, 3, 4]);
    assert_eq!(db.count("select count(*) from outbox where refused_at is not null").await, 0);
}

#[tokio::test]
async fn unroutable_events_are_counted_and_only_the_confirmed_are_removed() {
    let db = Database::new().await;
    commit_events(&db, &["A", "B", "C"]).await;
    let mut session = db.lead().await;
    session.remove(&[1], &[]).await.unwrap();
    session.remove(&[3], &[3]).await.unwrap();
    assert_eq!(unpublished(&mut *session).await, [2]);
    assert_eq!(db.count("select unroutable from relay_state").await, 1);
}

/// The history of a message has them; with another setting they are only removed.
#[tokio::test]
async fn removed_events_are_recorded_as_published_unless_that_is_off() {
    let db = Database::new().await;
    commit_events(&db, &["A", "B", "C"]).await;
    let committed =
        "select string_agg(event_id || ' ' || committed_at, ', ' order by id) from outbox where id < 3";
    let committed = db.text(committed).await;
    let mut session = db.lead().await;
    session.remove(&[1, 2, 99], &[2]).await.unwrap();
    let published =
        "select string_agg(event_id || ' ' || committed_at, ', ' order by sku) from published_events";
    assert_eq!(db.text(published).await, committed);
    let unroutable = "select string_agg(sku, ' ') from published_events where unroutable";
    assert_eq!(db.text(unroutable).await, "B");
    session.release().await;
    let outbox = db.outbox().recording_published(false);
    let mut session = outbox.try_lead().await.unwrap().unwrap();
    session.remove(&[3], &[]).await.unwrap();
    assert_eq!(db.count("select count(*) from outbox").await, 0);
    assert_eq!(db.count("select count(*) from published_events").await, 2);
}

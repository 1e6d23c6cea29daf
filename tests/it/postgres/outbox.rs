//! Which events a relay is given, and what becomes of those that were set aside.

use allocation::ports::outbox::{LeaderSession, ParkedEvents as _};

use crate::harness::Database;

pub(super) const INSERT: &str = "insert into outbox (name, sku, sequence, body, causation_id, correlation_id)
                                 values ('allocated', $1, 1, '{}', 'c', 'c')";

/// Events of these products, in this order; their ids are 1, 2, 3 …
pub(super) async fn commit_events(db: &Database, skus: &[&str]) {
    for sku in skus {
        sqlx::query(INSERT).bind(sku).execute(&db.pool).await.unwrap();
    }
}

pub(super) async fn unpublished(lead: &mut dyn LeaderSession) -> Vec<i64> {
    window(lead, 100, &[]).await
}

async fn window(lead: &mut dyn LeaderSession, at_most: u32, except: &[&str]) -> Vec<i64> {
    let except: Vec<_> = except.iter().map(ToString::to_string).collect();
    lead.unpublished(at_most, &except).await.unwrap().iter().map(|row| row.id).collect()
}

/// Events of a product that rests take no place from others.
#[tokio::test]
async fn resting_products_do_not_fill_the_window() {
    let db = Database::new().await;
    commit_events(&db, &["A", "A", "A", "B", "C", "B", "A"]).await;
    let mut lead = db.lead().await;
    assert_eq!(window(&mut *lead, 2, &[]).await, [1, 2]);
    assert_eq!(window(&mut *lead, 2, &["A"]).await, [4, 5]);
    assert_eq!(window(&mut *lead, 2, &["A", "C"]).await, [4, 6]);
    assert_eq!(window(&mut *lead, 9, &["A", "C"]).await, [4, 6]);
}

/// An event that was set aside holds back its own product, and no other.
#[tokio::test]
async fn what_is_behind_an_event_that_was_set_aside_does_not_fill_the_window() {
    let db = Database::new().await;
    commit_events(&db, &["A", "A", "A", "B", "A", "B"]).await;
    let mut lead = db.lead().await;
    lead.remove(&[1], 0).await.unwrap();
    lead.park(2, "too large").await.unwrap();
    assert_eq!(window(&mut *lead, 2, &[]).await, [4, 6]);
    assert!(lead.pending().await.unwrap().events);
    lead.remove(&[4, 6], 0).await.unwrap();
    assert!(!lead.pending().await.unwrap().events, "what is left waits for an operator");
    assert_eq!(db.count("select count(*) from outbox").await, 3);
    assert_eq!(db.text("select refused from outbox where id = 2").await, "too large");
}

#[tokio::test]
async fn only_the_named_events_are_tried_again() {
    let db = Database::new().await;
    commit_events(&db, &["A", "B", "C", "D"]).await;
    let mut lead = db.lead().await;
    for id in [1, 2, 3] {
        lead.park(id, "too large").await.unwrap();
    }
    assert_eq!(unpublished(&mut *lead).await, [4]);
    let ledger = db.ledger();
    // 4 was not set aside, and 9 is none.
    assert_eq!(ledger.try_again(Some(&[2, 4, 9])).await.unwrap(), 1);
    assert_eq!(unpublished(&mut *lead).await, [2, 4]);
    assert_eq!(ledger.try_again(Some(&[])).await.unwrap(), 0);
    assert_eq!(unpublished(&mut *lead).await, [2, 4]);
    assert_eq!(ledger.try_again(None).await.unwrap(), 2);
    assert_eq!(unpublished(&mut *lead).await, [1, 2, 3, 4]);
    assert_eq!(db.count("select count(*) from outbox where refused_at is not null").await, 0);
}

#[tokio::test]
async fn unroutable_events_are_counted_and_only_the_confirmed_are_removed() {
    let db = Database::new().await;
    commit_events(&db, &["A", "B", "C"]).await;
    let mut lead = db.lead().await;
    lead.remove(&[1], 0).await.unwrap();
    lead.remove(&[3], 1).await.unwrap();
    assert_eq!(unpublished(&mut *lead).await, [2]);
    assert_eq!(db.count("select unroutable from relay_state").await, 1);
}

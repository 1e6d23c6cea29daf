//! Retention of failed messages, inbox and starts, and retries that are published again because their copies may be lost.

use std::time::Duration;

use allocation::ports::outbox::{Retention, Upkeep};
use serde_json::json;

use crate::harness::Database;

use super::STATUSES;

const DAY: Duration = Duration::from_hours(24);
const RETENTION: Retention = Retention { inbox: DAY, failures: DAY.saturating_mul(3), published: DAY };

/// The hours for which a resolved message is kept, the hours for which a discarded one is kept, and the retention.
const KEPT: [(u32, u32, Retention); 2] =
    [(72, 72, RETENTION), (72, 240, Retention { inbox: DAY.saturating_mul(10), ..RETENTION })];

async fn purge_expired(session: &mut dyn Upkeep) {
    assert!(!session.purge(RETENTION).await.unwrap().is_incomplete, "nothing remains to be removed");
}

/// A dead or retrying message is never removed, whatever its times are. A discarded one is kept as long as a copy of it
/// may arrive.
#[tokio::test]
async fn only_resolved_and_discarded_messages_are_removed_after_their_retention() {
    let db = Database::new().await;
    let mut session = db.lead().await;
    for (resolved, discarded, retention) in KEPT {
        let mut expected = Vec::new();
        for (status, _) in STATUSES {
            for hours in [71, 73, 239, 241] {
                let columns = format!(
                    "status = '{status}', due_at = now(), ended_at = now() - interval '{hours} hours'"
                );
                let id = db.failed(&format!("{status} {hours}"), &columns).await;
                let kept = match status {
                    "resolved" => resolved,
                    "discarded" => discarded,
                    _ => u32::MAX,
                };
                if hours < kept {
                    expected.push(id.to_string());
                }
            }
        }
        assert!(!session.purge(retention).await.unwrap().is_incomplete, "nothing remains to be removed");
        let left = "select string_agg(id::text, ' ' order by id) from failed_messages";
        assert_eq!(db.text(left).await, expected.join(" "), "{retention:?}");
        db.execute("delete from failed_messages").await;
    }
}

#[tokio::test]
async fn handled_messages_and_starts_are_removed_after_their_retention() {
    let db = Database::new().await;
    db.execute(
        "insert into inbox (queue, message_id, fingerprint, handled_at)
         select queue, hours, '', now() - hours * interval '1 hour'
         from unnest(array['orders', 'stock']) as queue, unnest(array[0, 23, 25, 71, 73]) as hours;
         insert into message_starts (queue, message_id, starts, started_at)
         select queue, message_id, 2, handled_at from inbox",
    )
    .await;
    purge_expired(&mut *db.lead().await).await;
    for table in ["inbox", "message_starts"] {
        let left = format!(
            "select string_agg(concat(queue, message_id), ' ' order by queue, message_id) from {table}"
        );
        assert_eq!(db.text(&left).await, "orders0 orders23 stock0 stock23", "{table}");
    }
}

/// A copy is published again after 1, 2, 4, 8 … hours: if it was published at least one hour ago, and longer ago than the
/// time between its due time and that publication.
#[tokio::test]
async fn copies_are_published_again_at_intervals_that_double() {
    let db = Database::new().await;
    let mut session = db.lead().await;
    // Minutes since the publication, minutes between due time and publication, and whether another copy is due.
    let cases = [
        (1, 0, false),
        (59, 0, false),
        (61, 0, true),
        (61, 60, true),
        (61, 62, false),
        (119, 120, false),
        (121, 120, true),
        (7 * 60, 8 * 60, false),
        (9 * 60, 8 * 60, true),
    ];
    for (out, waited, again) in cases {
        for (status, columns) in STATUSES.into_iter().filter(|(status, _)| *status != "waiting") {
            let case = format!("{status}, published {out} min ago, {waited} min late");
            let id = db.failed("m1", columns).await;
            db.execute(&format!(
                "update failed_messages set published_at = now() - interval '{out} minutes',
                     due_at = now() - interval '{out} minutes' - interval '{waited} minutes'"
            ))
            .await;
            let before = db.row(id).await;
            purge_expired(&mut *session).await;
            let is_due = again && status == "retrying";
            let expected = if is_due { json!({ "published_at": null }) } else { json!({}) };
            assert_eq!(db.row(id).await.changes_since(&before), expected, "{case}");
            assert_eq!(session.due(1, usize::MAX).await.unwrap().len(), usize::from(is_due), "{case}");
            db.execute("delete from failed_messages").await;
        }
    }
}

#[tokio::test]
async fn few_copies_are_published_in_two_days_without_a_worker() {
    let db = Database::new().await;
    let mut session = db.lead().await;
    db.failed("m1", "status = 'retrying', reason = null, due_at = now() - interval '1 minute'").await;
    let mut published_at = Vec::new();
    for half_hour in 0..=96 {
        purge_expired(&mut *session).await;
        for retry in session.due(1, usize::MAX).await.unwrap() {
            session.published(&[&retry]).await.unwrap();
            published_at.push(half_hour);
        }
        // Half an hour passes.
        db.execute(
            "update failed_messages set due_at = due_at - interval '30 minutes',
                 published_at = published_at - interval '30 minutes'",
        )
        .await;
    }
    // After an hour, and then whenever the last publication is longer ago than all the time before it.
    assert_eq!(published_at, [0, 2, 5, 11, 23, 47, 95]);
}

#[tokio::test]
async fn published_events_are_removed_after_their_retention() {
    let db = Database::new().await;
    db.execute(
        "insert into published_events (event_id, name, sku, sequence, body, causation_id, correlation_id, committed_at, unroutable)
         select gen_random_uuid(), 'allocated', 'A', hours, '{}', 'm', 'c', now() - hours * interval '1 hour', false
         from unnest(array[0, 23, 25, 73]) as hours",
    )
    .await;
    let mut session = db.lead().await;
    purge_expired(&mut *session).await;
    let left = "select string_agg(sequence::text, ' ' order by sequence) from published_events";
    assert_eq!(db.text(left).await, "0 23");
    session.purge(Retention { published: Duration::ZERO, ..RETENTION }).await.unwrap();
    assert_eq!(db.count("select count(*) from published_events").await, 0);
}

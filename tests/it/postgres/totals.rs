//! The kept numbers of failed messages are those that a count finds, at every moment.

use std::time::Duration;

use allocation::views::Views;

use crate::harness::{Database, Random};

const STATUSES: &str = "
    select concat_ws(' ', count(*) filter (where status = 'retrying'), count(*) filter (where status = 'waiting'),
                     count(*) filter (where status = 'dead'), count(*) filter (where status = 'discarded'))
    from failed_messages";

async fn compare(db: &Database, views: &Views, limit: i64) {
    let (groups, all) = views.dead_letter_groups(limit).await.unwrap();
    let found: Vec<_> = groups
        .iter()
        .map(|group| {
            (
                group.group.as_str(),
                group.kind.as_str(),
                group.count,
                group.first_failed_at,
                group.last_failed_at,
            )
        })
        .collect();
    let counted: Vec<(String, String, i64, time::OffsetDateTime, time::OffsetDateTime)> = sqlx::query_as(&format!(
        "select error_group, case when min(type) = max(type) then min(type) else '…' end, count(*), min(first_failed_at),
                max(last_failed_at)
         from failed_messages where status = 'dead' group by error_group order by count(*) desc, error_group limit {limit}"
    ))
    .fetch_all(&db.pool)
    .await
    .unwrap();
    let counted: Vec<_> = counted
        .iter()
        .map(|(g, kind, n, first, last)| (g.as_str(), kind.as_str(), *n, *first, *last))
        .collect();
    assert_eq!(found, counted);
    if !found.is_empty() {
        let groups = "select count(distinct error_group) from failed_messages where status = 'dead'";
        assert_eq!(all, db.count(groups).await);
    }
    let counts = views.failure_counts().await.unwrap();
    let found = format!("{} {} {} {}", counts.retrying, counts.waiting, counts.dead, counts.discarded);
    assert_eq!(found, db.text(STATUSES).await);
}

#[tokio::test]
async fn groups_and_statuses_are_counted_exactly_before_and_after_they_are_added_up() {
    let db = Database::new().await;
    let mut session = db.lead().await;
    let views = Views::new(db.pool.clone(), "it".into(), Duration::from_secs(10));
    let mut random = Random::seeded(20);
    compare(&db, &views, 3).await;
    for round in 0..40 {
        for number in 0..random.below(6) {
            let group = random.below(7);
            let columns = format!(
                "status = 'dead', reason = 'unknown_command', error_group = 'g{group}', type = 'type-{}',
                 last_failed_at = now() + {number} * interval '1 second'",
                if group == 0 { random.below(2) } else { 0 }
            );
            db.failed(&format!("{round} {number}"), &columns).await;
        }
        let (id, remainder) = (random.below(200), random.below(5));
        let change = *random.pick(&[
            "update failed_messages set status = 'retrying', reason = null, due_at = now() where id = ID",
            "update failed_messages set status = 'waiting', reason = null, due_at = null where id = ID",
            "update failed_messages set status = 'discarded', due_at = null, ended_at = now() where id = ID",
            "update failed_messages set error_group = 'g9' where status = 'dead' and id % 5 = REMAINDER",
            "delete from failed_messages where id % 50 = REMAINDER",
            "update failed_messages set status = 'resolved', reason = null, due_at = null, ended_at = now() where id = ID",
        ]);
        db.execute(&change.replace("ID", &id.to_string()).replace("REMAINDER", &remainder.to_string())).await;
        compare(&db, &views, 3).await;
        if random.percent(40) {
            session.add_up_failed_messages().await.unwrap();
            compare(&db, &views, 3).await;
        }
    }
    compare(&db, &views, 100).await;
    session.add_up_failed_messages().await.unwrap();
    assert_eq!(db.count("select count(*) from failed_message_changes").await, 0);
    assert_eq!(
        db.count("select count(*) from failed_message_totals where n <= 0 and error_group <> ''").await,
        0
    );
    db.execute("truncate failed_messages cascade").await;
    compare(&db, &views, 3).await;
}

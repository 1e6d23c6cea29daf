//! Events whose transaction commits after later events were published.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use allocation::{adapters::postgres::PgOutbox, pg::PgConfig, ports::outbox::Outbox as _};

use crate::harness::{SOON, TestSystem};

use super::commit_events;

/// The low-water mark is checked once a second, and rises with the second check.
const CHECKED_TWICE: Duration = Duration::from_millis(2500);

#[tokio::test]
async fn an_event_that_commits_late_is_read_although_later_ones_were_removed() {
    let system = TestSystem::new("an_event_that_commits_late_is_read_although_later_ones_were_removed").await;
    let mut late = system.pool.begin().await.unwrap();
    sqlx::raw_sql(
        "insert into outbox (name, sku, sequence, body, causation_id, correlation_id)
         values ('allocated', 'SKU-LATE', 1, '{}', 'c', 'c')",
    )
    .execute(&mut *late)
    .await
    .unwrap();
    let outbox = PgOutbox::new(
        PgConfig::new(&system.database_url(), 2, SOON).unwrap(),
        &system.namespace,
        Arc::default(),
    );
    let mut session = outbox.try_lead().await.unwrap().expect("there is no other leader");
    let begin = Instant::now();
    let mut sequence = 0;
    while begin.elapsed() < CHECKED_TWICE {
        sequence += 1;
        commit_events(&system, sequence..=sequence).await;
        let rows = session.unpublished(100, &[]).await.unwrap();
        assert_eq!(rows.len(), 50);
        let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
        session.remove(&ids, &[]).await.unwrap();
    }
    late.commit().await.unwrap();
    assert!(session.pending().await.unwrap().events);
    let rows = session.unpublished(100, &[]).await.unwrap();
    let skus: Vec<_> = rows.iter().map(|row| row.sku.as_str()).collect();
    assert_eq!(skus, ["SKU-LATE"]);
    session.remove(&[rows[0].id], &[]).await.unwrap();
    session.release().await;
    system.close().await;
}

//! Events whose transaction commits after later ones were published.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use allocation::{
    adapters::postgres::{PgConfig, PgOutbox},
    ports::outbox::Outbox as _,
};

use crate::harness::{SOON, World};

use super::commit_events;

/// The relay forgets about once a second where removed rows were; it needs two of these checks for it.
const CHECKED_TWICE: Duration = Duration::from_millis(2500);

#[tokio::test]
async fn an_event_that_commits_late_is_read_although_later_ones_were_removed() {
    let world = World::new("an_event_that_commits_late").await;
    let mut late = world.pool.begin().await.unwrap();
    sqlx::raw_sql(
        "insert into outbox (name, sku, sequence, body, causation_id, correlation_id)
         values ('allocated', 'SKU-LATE', 1, '{}', 'c', 'c')",
    )
    .execute(&mut *late)
    .await
    .unwrap();
    let outbox = PgOutbox::new(PgConfig::new(&world.database_url(), 2, SOON).unwrap(), Arc::default());
    let mut lead = outbox.try_lead().await.unwrap().expect("the lead is free");
    let begin = Instant::now();
    let mut sequence = 0;
    while begin.elapsed() < CHECKED_TWICE {
        sequence += 1;
        commit_events(&world, sequence..=sequence).await;
        let rows = lead.unpublished(100, &[]).await.unwrap();
        assert_eq!(rows.len(), 50);
        let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
        lead.remove(&ids, 0).await.unwrap();
    }
    late.commit().await.unwrap();
    assert!(lead.pending().await.unwrap().events);
    let rows = lead.unpublished(100, &[]).await.unwrap();
    let skus: Vec<_> = rows.iter().map(|row| row.sku.as_str()).collect();
    assert_eq!(skus, ["SKU-LATE"]);
    lead.remove(&[rows[0].id], 0).await.unwrap();
    lead.release().await;
    world.close().await;
}

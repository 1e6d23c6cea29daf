//! No query of the views waits longer than `database.timeout` for a server that does not reply.

use std::time::Duration;

use allocation::{
    ports::{error::StoreError, failed_messages::FailedMessageFilter},
    views::Views,
};
use futures_util::future::{BoxFuture, FutureExt as _, join_all};
use sqlx::postgres::PgPoolOptions;

use crate::harness::{Database, Proxy, SOON, wait_for};

const TIMEOUT: Duration = Duration::from_millis(500);
/// The time in which every query must fail; a query without a limit never ends.
const FAIL_WITHIN: Duration = Duration::from_secs(10);
const QUERIES: usize = 11;

/// Every query, with its name.
fn queries(views: &Views) -> [(&'static str, BoxFuture<'_, Result<(), StoreError>>); QUERIES] {
    [
        ("allocations", async { views.allocations("o").await.map(drop) }.boxed()),
        ("order", async { views.order("o").await.map(drop) }.boxed()),
        ("availability", async { views.availability("s").await.map(drop) }.boxed()),
        ("outbox_depth", async { views.outbox_depth().await.map(drop) }.boxed()),
        ("unpublished_events", async { views.unpublished_events(None, true, 1).await.map(drop) }.boxed()),
        ("recorded_totals", async { views.recorded_totals().await.map(drop) }.boxed()),
        ("send_progress", async { views.send_progress(&[], &[]).await.map(drop) }.boxed()),
        (
            "failed_messages",
            async { views.failed_messages(&FailedMessageFilter::default(), 1, None).await.map(drop) }.boxed(),
        ),
        ("dead_letter_groups", async { views.dead_letter_groups(10).await.map(drop) }.boxed()),
        ("failed_message", async { views.failed_message(1).await.map(drop) }.boxed()),
        ("failure_counts", async { views.failure_counts().await.map(drop) }.boxed()),
    ]
}

async fn run(views: &Views) -> Vec<(&'static str, Result<(), StoreError>)> {
    join_all(queries(views).map(|(name, query)| async move { (name, query.await) })).await
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_frozen_server_every_view_query_fails_within_the_timeout() {
    let database = Database::new().await;
    let proxy = Proxy::to(&database.url(), 5432).await;
    // One connection each, and none is tested before it is used: the queries themselves meet the frozen server.
    let pool =
        PgPoolOptions::new().max_connections(u32::try_from(QUERIES).unwrap()).test_before_acquire(false);
    let pool = pool.connect(proxy.url()).await.unwrap();
    // All of them are open before the server freezes.
    drop(join_all((0..QUERIES).map(|_| pool.acquire())).await);
    let views = Views::new(pool.clone(), "test".into(), TIMEOUT);
    for (name, outcome) in run(&views).await {
        outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    // Connections return to the pool in the background.
    wait_for("idle connections", SOON, &QUERIES, async || pool.num_idle()).await;
    proxy.freeze();
    let outcomes = tokio::time::timeout(FAIL_WITHIN, run(&views)).await.expect("every query has a limit");
    for (name, outcome) in outcomes {
        assert!(matches!(outcome, Err(StoreError::Timeout(_))), "{name}: {outcome:?}");
    }
}

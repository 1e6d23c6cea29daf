//! Transactions lock rows in one order, so that two of them cannot deadlock.
//!
//! In each test another transaction holds the first row in that order. A transaction that waits for it must not have locked
//! any later row: a third transaction can still lock the later rows.

use std::sync::Arc;

use allocation::{
    domain::{BodyHash, MessageKey, Sku},
    ports::{
        queue::QueueName,
        store::{Store, WorkingSet},
    },
};
use serde_json::json;
use sqlx::{PgPool, Postgres, Transaction};

use crate::harness::{HandleAll as _, SOON, TestSystem, bus, command, wait_until};

/// Begins a transaction that locks rows by `sql`.
async fn lock_rows(pool: &PgPool, sql: &'static str) -> Transaction<'static, Postgres> {
    let mut other = pool.begin().await.unwrap();
    sqlx::raw_sql(sql).execute(&mut *other).await.unwrap();
    other
}

/// Waits until `work` waits for `other`, and asserts that `later` can lock its rows.
async fn assert_later_rows_are_free(
    system: &TestSystem,
    other: Transaction<'static, Postgres>,
    work: impl Future<Output = ()> + Send + 'static,
    later: &'static str,
) {
    let work = tokio::spawn(work);
    wait_until("the work waits for a lock", SOON, async || system.waiting_for_locks().await > 0).await;
    let mut third = lock_rows(&system.pool, "set local lock_timeout = '100ms'").await;
    let taken = sqlx::raw_sql(later).execute(&mut *third).await;
    third.rollback().await.unwrap();
    work.abort();
    let _ = work.await;
    other.rollback().await.unwrap();
    assert!(taken.is_ok(), "a later row is locked: {taken:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_enter_the_inbox_in_order_of_their_ids() {
    let system = TestSystem::new("messages_enter_the_inbox_in_order_of_their_ids").await;
    let other = lock_rows(
        &system.pool,
        "insert into inbox (queue, message_id, fingerprint) values ('orders', 'm-1', '')",
    )
    .await;
    let store = system.store();
    let key = |id: &str| MessageKey { message_id: id.into(), kind: "allocate", body_hash: BodyHash([0; 16]) };
    let keys = ["m-3", "m-2", "m-1"].map(key);
    let work = async move {
        let mut tx = store.begin(QueueName::Orders).await.unwrap();
        let _ = tx.check_inbox(&keys).await;
    };
    let later = "insert into inbox (queue, message_id, fingerprint) values ('orders', 'm-2', ''), ('orders', 'm-3', '')";
    assert_later_rows_are_free(&system, other, work, later).await;
    system.close().await;
}

/// The primary key is dropped, because a scan of it has the order by chance.
#[tokio::test(flavor = "multi_thread")]
async fn products_are_locked_in_order_of_their_skus() {
    let system = TestSystem::new("products_are_locked_in_order_of_their_skus").await;
    let prepare = "alter table products drop constraint products_pkey cascade;
        insert into products (sku, version, event_sequence, last_place, backordered)
        values ('SKU-2', 1, 0, 0, 0), ('SKU-1', 1, 0, 0, 0)";
    sqlx::raw_sql(prepare).execute(&system.pool).await.unwrap();
    let other = lock_rows(&system.pool, "select from products where sku = 'SKU-1' for update").await;
    let store = system.store();
    let skus = ["SKU-1", "SKU-2"].map(|sku| Sku::new(sku).unwrap());
    let working_set = WorkingSet { skus: skus.into(), ..WorkingSet::default() };
    let work = async move {
        let mut tx = store.begin(QueueName::Orders).await.unwrap();
        let _ = tx.load_products(&working_set).await;
    };
    let later = "select from products where sku = 'SKU-2' for update";
    assert_later_rows_are_free(&system, other, work, later).await;
    system.close().await;
}

/// Handles the creation of batches, each a reference and a SKU, in one unit of work.
async fn create_batches(store: Arc<dyn Store>, batches: &[(&str, &str)]) {
    let mut commands: Vec<_> = batches
        .iter()
        .map(|(reference, sku)| {
            let body = json!({ "ref": reference, "sku": sku, "qty": 1, "eta": null });
            command(reference, "create_batch", &body)
        })
        .collect();
    let _ = bus(store).handle_all(QueueName::Stock, &mut commands).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_products_are_written_in_order_of_their_skus() {
    let system = TestSystem::new("new_products_are_written_in_order_of_their_skus").await;
    let other = lock_rows(&system.pool, "insert into products values ('SKU-1', 1, 0, 0, 0)").await;
    let store = system.store();
    let work = async move {
        let batches: Vec<_> =
            (1..=9).map(|number| (format!("b-{number}"), format!("SKU-{number}"))).collect();
        let batches: Vec<_> = batches.iter().map(|(batch, sku)| (batch.as_str(), sku.as_str())).collect();
        create_batches(store, &batches).await;
    };
    let later =
        "insert into products select 'SKU-' || number, 1, 0, 0, 0 from generate_series(2, 9) as number";
    assert_later_rows_are_free(&system, other, work, later).await;
    system.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_batches_are_written_in_order_of_their_references() {
    let system = TestSystem::new("new_batches_are_written_in_order_of_their_references").await;
    let another = "insert into products values ('SKU-3', 1, 0, 0, 0);
        insert into batches (ref, sku, ordered, purchased, allocated) values ('b-1', 'SKU-3', 1, 1, 0)";
    let other = lock_rows(&system.pool, another).await;
    let store = system.store();
    let work = async move { create_batches(store, &[("b-2", "SKU-1"), ("b-1", "SKU-2")]).await };
    let later = "insert into products values ('SKU-4', 1, 0, 0, 0);
        insert into batches (ref, sku, ordered, purchased, allocated) values ('b-2', 'SKU-4', 1, 1, 0)";
    assert_later_rows_are_free(&system, other, work, later).await;
    system.close().await;
}

//! Dry runs: their stores keep the promises of a store, and nothing remains.

use std::sync::Arc;

use allocation::{
    adapters::{memory::MemoryStore, postgres::PgDryRuns},
    ports::{
        dry_run::{DryRun, DryRuns},
        queue::QueueName,
        store::{ChangeSet, InboxCheck},
    },
};

use crate::harness::{Database, dump};

use super::{AnyStore, begin, commit, load, message_key, order, sku, store_product, working_set};

macro_rules! every_dry_run {
    ($($promise:path as $name:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $name() {
                let store = allocation::adapters::memory::MemoryStore::default();
                let dry_run = super::DryRuns::begin(&store).await.unwrap();
                $promise(dry_run.store()).await;
                dry_run.rollback().await;
                super::assert_empty(&store).await;
            })+
        }
        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                let db = crate::harness::Database::new().await;
                let before = super::dump(&db.pool).await;
                let dry_run = super::begin_in(&db).await;
                $promise(dry_run.store()).await;
                dry_run.rollback().await;
                assert_eq!(super::dump(&db.pool).await, before);
            })+
        }
    };
}

every_dry_run!(
    super::super::a_commit_stores_the_products as a_commit_stores_the_products,
    super::super::the_inbox_distinguishes_new_duplicate_and_body_mismatch as the_inbox_distinguishes_messages,
    super::super::the_inbox_is_per_queue as the_inbox_is_per_queue,
    super::super::an_unhandled_message_is_forgotten as an_unhandled_message_is_forgotten,
    super::super::a_batch_reference_of_another_product_is_a_conflict as a_batch_reference_is_unique,
    super::super::waiting_lines_are_loaded_as_far_as_the_stock_suffices as waiting_lines_are_loaded,
    super::super::the_newest_lines_are_loaded_up_to_the_requested_units as the_newest_lines_are_loaded,
    super::super::starts_are_counted_until_they_end as starts_are_counted_until_they_end,
    super::a_part_that_is_rolled_back_leaves_the_earlier_parts
        as a_part_that_is_rolled_back_leaves_the_earlier_parts,
    super::a_part_that_fails_leaves_the_earlier_parts as a_part_that_fails_leaves_the_earlier_parts,
);

async fn begin_in(db: &Database) -> Box<dyn DryRun> {
    PgDryRuns::new(db.pool.clone(), &db.config()).begin().await.unwrap()
}

async fn assert_empty(store: &MemoryStore) {
    let state = store.state().await;
    assert!(state.view.is_empty() && state.failures.is_empty() && state.outbox.is_empty());
    assert!(state.product(&sku()).is_none() && state.failed_message(1).is_none());
    drop(state);
    let mut tx = begin(&(Arc::new(store.clone()) as AnyStore)).await;
    assert_eq!(tx.check_inbox(&[message_key("m1", 1)]).await.unwrap(), [InboxCheck::New]);
}

async fn a_part_that_is_rolled_back_leaves_the_earlier_parts(store: AnyStore) {
    store_product(&store, &[("b1", 10)], &[("o1", 4)]).await;
    let mut tx = begin(&store).await;
    tx.check_inbox(&[message_key("m1", 1)]).await.unwrap();
    load(&mut tx, &working_set(sku(), &[], &[])).await;
    tx.rollback().await;
    let mut tx = begin(&store).await;
    assert_eq!(tx.check_inbox(&[message_key("m1", 1)]).await.unwrap(), [InboxCheck::New]);
    let product = load(&mut tx, &working_set(sku(), &["o1"], &[])).await;
    assert!(product.line(&order("o1")).is_some());
    tx.commit(ChangeSet::default()).await.unwrap();
    let mut tx = store.begin(QueueName::Orders).await.unwrap();
    assert_eq!(tx.check_inbox(&[message_key("m1", 1)]).await.unwrap(), [InboxCheck::Duplicate]);
    tx.rollback().await;
}

async fn a_part_that_fails_leaves_the_earlier_parts(store: AnyStore) {
    store_product(&store, &[("b1", 10)], &[("o1", 4)]).await;
    let mut tx = begin(&store).await;
    let stale = load(&mut tx, &working_set(sku(), &[], &[])).await;
    tx.rollback().await;
    let mut tx = begin(&store).await;
    let mut product = load(&mut tx, &working_set(sku(), &["o1"], &["b1"])).await;
    product.deallocate(&order("o1"));
    commit(tx, product).await.unwrap();
    let mut changed = stale;
    changed.add_batch(super::batch("b2", 1)).unwrap();
    assert!(commit(begin(&store).await, changed).await.unwrap_err().is_conflict());
    let mut tx = begin(&store).await;
    let product = load(&mut tx, &working_set(sku(), &["o1"], &["b1"])).await;
    assert!(product.line(&order("o1")).is_none());
    tx.rollback().await;
}

#[tokio::test]
async fn a_dry_run_that_is_dropped_is_rolled_back() {
    let db = Database::new().await;
    let before = dump(&db.pool).await;
    let dry_run = begin_in(&db).await;
    store_product(&dry_run.store(), &[("b1", 10)], &[("o1", 4)]).await;
    let mut tx = begin(&dry_run.store()).await;
    load(&mut tx, &working_set(sku(), &[], &[])).await;
    drop(tx);
    assert!(dry_run.store().begin(QueueName::Orders).await.err().unwrap().is_outage());
    drop(dry_run);
    assert_eq!(dump(&db.pool).await, before);
}

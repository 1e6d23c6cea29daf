//! Contract tests of the ports: the same tests for the adapters in memory and for those for PostgreSQL and RabbitMQ.

mod adapters;
mod batches;
mod dry_runs;
mod key_order;
mod outbox;
mod publisher;
mod purge;
mod retries;

use std::sync::Arc;

use allocation::{
    adapters::memory::MemoryStore,
    domain::{Batch, BatchRef, BodyHash, MessageKey, OrderId, Product, Quantity, Sku, StockQuantity},
    ports::{
        error::StoreError,
        queue::QueueName,
        store::{ChangeSet, InboxCheck, LockedRows, Store, Tx, WorkingSet},
    },
};

use tokio::task::JoinHandle;

use crate::harness::{SOON, TestSystem, wait_until};

type AnyStore = Arc<dyn Store>;

macro_rules! every_store {
    ($($promise:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise(std::sync::Arc::new(super::MemoryStore::default())).await;
            })+
        }
        mod postgres {
            $(#[tokio::test]
            async fn $promise() {
                let system = super::TestSystem::new(stringify!($promise)).await;
                super::$promise(system.store()).await;
                sqlx::raw_sql("truncate outbox").execute(&system.pool).await.unwrap();
                system.close().await;
            })+
        }
    };
}

mod failed_messages;

use batches::{
    a_product_is_loaded_with_its_first_batches,
    a_search_finds_the_first_batches_with_enough_stock_after_another, names,
};

every_store!(
    a_commit_stores_the_products,
    without_a_commit_the_inbox_stays_empty,
    the_inbox_distinguishes_new_duplicate_and_body_mismatch,
    the_inbox_is_per_queue,
    an_unhandled_message_is_forgotten,
    a_batch_reference_of_another_product_is_a_conflict,
    waiting_lines_are_loaded_as_far_as_the_stock_suffices,
    the_newest_lines_are_loaded_up_to_the_requested_units,
    of_many_small_lines_the_newest_are_loaded,
    full_batches_are_loaded_only_if_they_are_named,
    a_product_is_loaded_with_its_first_batches,
    a_search_finds_the_first_batches_with_enough_stock_after_another,
    starts_are_counted_until_they_end,
);

fn sku() -> Sku {
    Sku::new("PLAIN-STOOL").unwrap()
}

fn order(name: &str) -> OrderId {
    OrderId::new(name).unwrap()
}

fn reference(name: &str) -> BatchRef {
    BatchRef::new(name).unwrap()
}

fn batch(name: &str, quantity: u32) -> Batch {
    Batch::new(reference(name), StockQuantity::new(quantity).unwrap(), None)
}

fn message_key(id: &str, body: u8) -> MessageKey {
    MessageKey { message_id: id.into(), kind: "allocate", body_hash: BodyHash([body; 16]) }
}

fn working_set(sku: Sku, lines: &[&str], batches: &[&str]) -> WorkingSet {
    WorkingSet {
        lines: lines.iter().map(|line| (sku.clone(), order(line))).collect(),
        batches: batches.iter().map(|name| reference(name)).collect(),
        skus: [sku].into(),
        locked_lately: LockedRows::default(),
    }
}

async fn begin(store: &AnyStore) -> Box<dyn Tx> {
    store.begin(QueueName::Orders).await.unwrap()
}

async fn commit(tx: Box<dyn Tx>, product: Product) -> Result<(), StoreError> {
    tx.commit(ChangeSet { products: vec![product], ..ChangeSet::default() }).await
}

async fn load(tx: &mut Box<dyn Tx>, working_set: &WorkingSet) -> Product {
    let mut products = tx.load_products(working_set).await.unwrap().products;
    assert_eq!(products.len(), 1);
    products.remove(0)
}

/// Stores a product with batches and lines; a line is an order and a quantity.
async fn store_product(store: &AnyStore, batches: &[(&str, u32)], lines: &[(&str, u32)]) {
    let mut product = Product::new(sku());
    for (name, quantity) in batches {
        product.add_batch(batch(name, *quantity)).unwrap();
    }
    for (name, quantity) in lines {
        product.allocate(&order(name), Quantity::new(*quantity).unwrap()).unwrap();
    }
    commit(begin(store).await, product).await.unwrap();
}

fn loaded_lines(product: &Product) -> Vec<String> {
    let mut names: Vec<_> = product.lines().map(|(orderid, _)| orderid.to_string()).collect();
    names.sort();
    names
}

/// R4 and R5 of the book: a stored product is loaded unchanged, and a second commit adds only the changes.
async fn a_commit_stores_the_products(store: AnyStore) {
    store_product(&store, &[("b1", 10), ("b2", 3)], &[("o1", 4), ("o2", 20)]).await;
    let mut tx = begin(&store).await;
    let mut product = load(&mut tx, &working_set(sku(), &["o1", "o2", "o3"], &[])).await;
    assert_eq!(
        (product.version(), product.sequence(), product.last_position(), product.backordered()),
        (1, 2, 2, 20)
    );
    assert_eq!(product.batch(&reference("b1")).unwrap().allocated(), 4);
    assert_eq!(product.line(&order("o1")).unwrap().batch, Some(reference("b1")));
    assert_eq!(product.line(&order("o2")).unwrap().batch, None);
    product.allocate(&order("o3"), Quantity::new(3u32).unwrap()).unwrap();
    product.deallocate(&order("o1"));
    commit(tx, product).await.unwrap();
    let mut tx = begin(&store).await;
    let product = load(&mut tx, &working_set(sku(), &["o1", "o2", "o3"], &[])).await;
    assert_eq!(loaded_lines(&product), ["o2", "o3"]);
    assert_eq!((product.version(), product.batch(&reference("b1")).unwrap().allocated()), (2, 3));
    tx.rollback().await;
}

/// I3 and I4 of the book: neither a drop nor a rollback leaves an inbox row.
async fn without_a_commit_the_inbox_stays_empty(store: AnyStore) {
    let mut tx = begin(&store).await;
    assert_eq!(tx.check_inbox(&[message_key("m1", 1)]).await.unwrap(), [InboxCheck::New]);
    drop(tx);
    let mut tx = begin(&store).await;
    assert_eq!(tx.check_inbox(&[message_key("m1", 1)]).await.unwrap(), [InboxCheck::New]);
    tx.rollback().await;
    let mut tx = begin(&store).await;
    assert_eq!(tx.check_inbox(&[message_key("m1", 1)]).await.unwrap(), [InboxCheck::New]);
    tx.rollback().await;
}

async fn the_inbox_distinguishes_new_duplicate_and_body_mismatch(store: AnyStore) {
    let mut tx = begin(&store).await;
    let inbox_checks = tx.check_inbox(&[message_key("m2", 1), message_key("m1", 1)]).await.unwrap();
    assert_eq!(inbox_checks, [InboxCheck::New, InboxCheck::New]);
    tx.commit(ChangeSet::default()).await.unwrap();
    let mut tx = begin(&store).await;
    let inbox_checks =
        tx.check_inbox(&[message_key("m3", 1), message_key("m2", 2), message_key("m1", 1)]).await.unwrap();
    assert_eq!(inbox_checks, [InboxCheck::New, InboxCheck::BodyMismatch, InboxCheck::Duplicate]);
    tx.rollback().await;
}

async fn the_inbox_is_per_queue(store: AnyStore) {
    for queue in [QueueName::Orders, QueueName::Stock] {
        let mut tx = store.begin(queue).await.unwrap();
        assert_eq!(tx.check_inbox(&[message_key("m1", 1)]).await.unwrap(), [InboxCheck::New]);
        tx.commit(ChangeSet::default()).await.unwrap();
    }
}

async fn an_unhandled_message_is_forgotten(store: AnyStore) {
    let mut tx = begin(&store).await;
    tx.check_inbox(&[message_key("m1", 1), message_key("m2", 1)]).await.unwrap();
    tx.commit(ChangeSet { unhandled: vec!["m1".into()], ..ChangeSet::default() }).await.unwrap();
    let mut tx = begin(&store).await;
    let inbox_checks = tx.check_inbox(&[message_key("m1", 1), message_key("m2", 1)]).await.unwrap();
    assert_eq!(inbox_checks, [InboxCheck::New, InboxCheck::Duplicate]);
    tx.rollback().await;
}

/// `blocked` returns when the second transaction waits for the first, or has ended without waiting.
async fn a_product_is_locked_until_the_transaction_ends(
    store: AnyStore,
    blocked: impl AsyncFnOnce(&JoinHandle<i64>),
) {
    store_product(&store, &[("b1", 10)], &[]).await;
    let mut first = begin(&store).await;
    let mut product = load(&mut first, &working_set(sku(), &[], &[])).await;
    let other = store.clone();
    let second = tokio::spawn(async move {
        let mut tx = begin(&other).await;
        let product = load(&mut tx, &working_set(sku(), &[], &[])).await;
        tx.rollback().await;
        product.version()
    });
    blocked(&second).await;
    assert!(!second.is_finished());
    product.allocate(&order("o1"), Quantity::new(1u32).unwrap()).unwrap();
    commit(first, product).await.unwrap();
    assert_eq!(second.await.unwrap(), 2);
}

#[tokio::test]
async fn a_product_is_locked_in_memory() {
    // There is one thread, and the second transaction waits only for the first.
    let blocked = async |_: &JoinHandle<i64>| {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    };
    a_product_is_locked_until_the_transaction_ends(Arc::new(MemoryStore::default()), blocked).await;
}

#[tokio::test]
async fn a_product_is_locked_in_postgres() {
    let system = TestSystem::new("a_product_is_locked_in_postgres").await;
    let blocked = async |second: &JoinHandle<i64>| {
        let waits = async || second.is_finished() || system.waiting_for_locks().await > 0;
        wait_until("the second transaction waits", SOON, waits).await;
    };
    a_product_is_locked_until_the_transaction_ends(system.store(), blocked).await;
    sqlx::raw_sql("truncate outbox").execute(&system.pool).await.unwrap();
    system.close().await;
}

#[tokio::test]
async fn a_product_that_was_locked_lately_is_not_awaited() {
    let system = TestSystem::new("a_product_that_was_locked_lately_is_not_awaited").await;
    let store = system.store();
    store_product(&store, &[("b1", 10)], &[]).await;
    let mut first = begin(&store).await;
    load(&mut first, &working_set(sku(), &[], &[])).await;
    let (of_sku, batches) = (LockedRows { skus: [sku()].into(), ..LockedRows::default() }, [reference("b1")]);
    let of_batch = LockedRows { batches: batches.clone().into(), ..LockedRows::default() };
    let named = LockedRows { skus: [sku()].into(), batches: batches.into() };
    for (lately, skus, found) in [(of_sku, true, named.clone()), (of_batch, false, named)] {
        let mut working_set = working_set(sku(), &[], &["b1"]);
        working_set.skus.retain(|_| skus);
        working_set.locked_lately = lately;
        let mut second = begin(&store).await;
        let loaded = second.load_products(&working_set).await.unwrap();
        assert_eq!((loaded.products, loaded.locked), (Vec::new(), found));
        second.rollback().await;
    }
    first.rollback().await;
    system.close().await;
}

async fn a_batch_reference_of_another_product_is_a_conflict(store: AnyStore) {
    store_product(&store, &[("b1", 10)], &[]).await;
    let mut other = Product::new(Sku::new("OTHER-STOOL").unwrap());
    other.add_batch(batch("b1", 10)).unwrap();
    let outcome = commit(begin(&store).await, other).await;
    assert!(matches!(outcome, Err(StoreError::AlreadyExists(_))), "{outcome:?}");
}

async fn waiting_lines_are_loaded_as_far_as_the_stock_suffices(store: AnyStore) {
    let lines = [("a3", 3), ("b3", 3), ("c3", 3), ("d5", 5), ("e5", 5), ("f9", 9), ("g6", 6), ("h7", 7)];
    store_product(&store, &[("full", 0)], &lines).await;
    let mut tx = begin(&store).await;
    let mut product = load(&mut tx, &working_set(sku(), &["b3"], &[])).await;
    product.add_batch(batch("b1", 7)).unwrap();
    product.add_batch(batch("b2", 2)).unwrap();
    tx.load_waiting_lines(&mut product).await.unwrap();
    // Of quantity 3, two more lines fit; of 5, 6 and 7, one line each; 9 does not fit.
    assert_eq!(loaded_lines(&product), ["a3", "b3", "c3", "d5", "g6", "h7"]);
    tx.rollback().await;
}

async fn the_newest_lines_are_loaded_up_to_the_requested_units(store: AnyStore) {
    let lines = [("o1", 5), ("o2", 5), ("o3", 5), ("o4", 5), ("o5", 5)];
    store_product(&store, &[("b1", 25)], &lines).await;
    let mut tx = begin(&store).await;
    let mut product = load(&mut tx, &working_set(sku(), &["o5"], &["b1"])).await;
    tx.load_newest_lines(&mut product, &reference("b1"), 6).await.unwrap();
    assert_eq!(loaded_lines(&product), ["o3", "o4", "o5"]);
    tx.rollback().await;
}

async fn of_many_small_lines_the_newest_are_loaded(store: AnyStore) {
    let lines = [("o1", 1), ("o2", 1), ("o3", 1), ("o4", 1), ("o5", 1)];
    store_product(&store, &[("b1", 25)], &lines).await;
    let mut tx = begin(&store).await;
    let mut product = load(&mut tx, &working_set(sku(), &[], &["b1"])).await;
    tx.load_newest_lines(&mut product, &reference("b1"), 2).await.unwrap();
    assert_eq!(loaded_lines(&product), ["o4", "o5"]);
    tx.rollback().await;
}

async fn full_batches_are_loaded_only_if_they_are_named(store: AnyStore) {
    store_product(&store, &[("b1", 5), ("b2", 5), ("b3", 5)], &[("o1", 5), ("o2", 5)]).await;
    let names = |product: &Product| names(product.batches().iter());
    let mut tx = begin(&store).await;
    assert_eq!(names(&load(&mut tx, &working_set(sku(), &[], &[])).await), ["b3"]);
    assert_eq!(names(&load(&mut tx, &working_set(sku(), &["o1"], &[])).await), ["b1", "b3"]);
    let by_name = WorkingSet { skus: [].into(), ..working_set(sku(), &[], &["b2"]) };
    assert_eq!(names(&load(&mut tx, &by_name).await), ["b2", "b3"]);
    tx.rollback().await;
}

async fn starts_are_counted_until_they_end(store: AnyStore) {
    let ids = ["m1".into(), "m2".into()];
    assert_eq!(store.unfinished_starts(QueueName::Orders, &ids).await.unwrap(), [0, 0]);
    store.record_starts(QueueName::Orders, &ids).await.unwrap();
    store.record_starts(QueueName::Orders, &ids[..1]).await.unwrap();
    assert_eq!(store.unfinished_starts(QueueName::Orders, &ids).await.unwrap(), [2, 1]);
    begin(&store).await.commit(ChangeSet { ended: vec!["m1".into()], ..ChangeSet::default() }).await.unwrap();
    assert_eq!(store.unfinished_starts(QueueName::Orders, &ids).await.unwrap(), [0, 1]);
}

//! What every adapter of a port promises: the same tests for the adapters in memory and for PostgreSQL and RabbitMQ.

mod adapters;
mod outbox;
mod publisher;
mod retries;

use std::sync::Arc;

use allocation::{
    adapters::memory::MemoryStore,
    domain::{Batch, BatchRef, BodyHash, MessageKey, OrderId, Product, Quantity, Sku, StockQuantity},
    ports::{
        error::StoreError,
        queue::QueueName,
        store::{ChangeSet, InboxCheck, Store, Tx, WorkingSet},
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

every_store!(
    a_commit_keeps_the_products,
    what_is_not_committed_leaves_no_trace,
    the_inbox_tells_first_from_repeat_from_other_body,
    the_inbox_is_per_queue,
    an_unhandled_message_is_forgotten,
    two_who_create_the_same_batch_conflict,
    waiting_lines_are_learnt_as_far_as_stock_reaches,
    newest_lines_are_learnt_as_far_as_units_reach,
    of_many_small_lines_the_newest_are_learnt,
    full_batches_are_only_loaded_when_named,
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

fn about(sku: Sku, lines: &[&str], batches: &[&str]) -> WorkingSet {
    WorkingSet {
        lines: lines.iter().map(|line| (sku.clone(), order(line))).collect(),
        batches: batches.iter().map(|name| reference(name)).collect(),
        skus: [sku].into(),
    }
}

async fn begin(store: &AnyStore) -> Box<dyn Tx> {
    store.begin(QueueName::Orders).await.unwrap()
}

async fn keep(tx: Box<dyn Tx>, product: Product) -> Result<(), StoreError> {
    tx.commit(ChangeSet { products: vec![product], ..ChangeSet::default() }).await
}

async fn load(tx: &mut Box<dyn Tx>, working_set: &WorkingSet) -> Product {
    let mut products = tx.load_products(working_set).await.unwrap();
    assert_eq!(products.len(), 1);
    products.remove(0)
}

/// A product of these batches and lines, each line an order and a quantity.
async fn stored(store: &AnyStore, batches: &[(&str, u32)], lines: &[(&str, u32)]) {
    let mut product = Product::new(sku());
    for (name, quantity) in batches {
        product.add_batch(batch(name, *quantity)).unwrap();
    }
    for (name, quantity) in lines {
        product.allocate(&order(name), Quantity::new(*quantity).unwrap()).unwrap();
    }
    keep(begin(store).await, product).await.unwrap();
}

fn known(product: &Product) -> Vec<String> {
    let mut names: Vec<_> = product.lines().map(|(orderid, _)| orderid.to_string()).collect();
    names.sort();
    names
}

/// R4, R5: what was stored comes back as it was, and a change adds only what is new.
async fn a_commit_keeps_the_products(store: AnyStore) {
    stored(&store, &[("b1", 10), ("b2", 3)], &[("o1", 4), ("o2", 20)]).await;
    let mut tx = begin(&store).await;
    let mut product = load(&mut tx, &about(sku(), &["o1", "o2", "o3"], &[])).await;
    assert_eq!(
        (product.version(), product.sequence(), product.last_position(), product.backordered()),
        (1, 2, 2, 20)
    );
    assert_eq!(product.batch(&reference("b1")).unwrap().allocated(), 4);
    assert_eq!(product.line(&order("o1")).unwrap().batch, Some(reference("b1")));
    assert_eq!(product.line(&order("o2")).unwrap().batch, None);
    product.allocate(&order("o3"), Quantity::new(3u32).unwrap()).unwrap();
    product.deallocate(&order("o1"));
    keep(tx, product).await.unwrap();
    let mut tx = begin(&store).await;
    let product = load(&mut tx, &about(sku(), &["o1", "o2", "o3"], &[])).await;
    assert_eq!(known(&product), ["o2", "o3"]);
    assert_eq!((product.version(), product.batch(&reference("b1")).unwrap().allocated()), (2, 3));
    tx.rollback().await;
}

/// I3, I4.
async fn what_is_not_committed_leaves_no_trace(store: AnyStore) {
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

async fn the_inbox_tells_first_from_repeat_from_other_body(store: AnyStore) {
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

/// `blocked` returns once the other transaction waits for the first, or is done because it need not wait.
async fn a_product_is_held_until_the_transaction_ends(
    store: AnyStore,
    blocked: impl AsyncFnOnce(&JoinHandle<i64>),
) {
    stored(&store, &[("b1", 10)], &[]).await;
    let mut first = begin(&store).await;
    let mut product = load(&mut first, &about(sku(), &[], &[])).await;
    let other = store.clone();
    let second = tokio::spawn(async move {
        let mut tx = begin(&other).await;
        let product = load(&mut tx, &about(sku(), &[], &[])).await;
        tx.rollback().await;
        product.version()
    });
    blocked(&second).await;
    assert!(!second.is_finished());
    product.allocate(&order("o1"), Quantity::new(1u32).unwrap()).unwrap();
    keep(first, product).await.unwrap();
    assert_eq!(second.await.unwrap(), 2);
}

#[tokio::test]
async fn a_product_is_held_in_memory() {
    // All is one thread, and nothing waits for anything but the other transaction.
    let blocked = async |_: &JoinHandle<i64>| {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    };
    a_product_is_held_until_the_transaction_ends(Arc::new(MemoryStore::default()), blocked).await;
}

#[tokio::test]
async fn a_product_is_held_in_postgres() {
    let system = TestSystem::new("a_product_is_held_in_postgres").await;
    let blocked = async |second: &JoinHandle<i64>| {
        let waits = async || second.is_finished() || system.waiting_for_locks().await > 0;
        wait_until("the second waits", SOON, waits).await;
    };
    a_product_is_held_until_the_transaction_ends(system.store(), blocked).await;
    sqlx::raw_sql("truncate outbox").execute(&system.pool).await.unwrap();
    system.close().await;
}

async fn two_who_create_the_same_batch_conflict(store: AnyStore) {
    stored(&store, &[("b1", 10)], &[]).await;
    let mut other = Product::new(Sku::new("OTHER-STOOL").unwrap());
    other.add_batch(batch("b1", 10)).unwrap();
    let outcome = keep(begin(&store).await, other).await;
    assert!(matches!(outcome, Err(StoreError::Conflict(_))), "{outcome:?}");
}

async fn waiting_lines_are_learnt_as_far_as_stock_reaches(store: AnyStore) {
    let lines = [("a3", 3), ("b3", 3), ("c3", 3), ("d5", 5), ("e5", 5), ("f9", 9), ("g6", 6), ("h7", 7)];
    stored(&store, &[("full", 0)], &lines).await;
    let mut tx = begin(&store).await;
    let mut product = load(&mut tx, &about(sku(), &["b3"], &[])).await;
    product.add_batch(batch("b1", 7)).unwrap();
    product.add_batch(batch("b2", 2)).unwrap();
    tx.load_waiting_lines(&mut product).await.unwrap();
    // Of threes two fit beside the known one, of fives, sixes and sevens one each; nine fits nowhere.
    assert_eq!(known(&product), ["a3", "b3", "c3", "d5", "g6", "h7"]);
    tx.rollback().await;
}

async fn newest_lines_are_learnt_as_far_as_units_reach(store: AnyStore) {
    let lines = [("o1", 5), ("o2", 5), ("o3", 5), ("o4", 5), ("o5", 5)];
    stored(&store, &[("b1", 25)], &lines).await;
    let mut tx = begin(&store).await;
    let mut product = load(&mut tx, &about(sku(), &["o5"], &["b1"])).await;
    tx.load_newest_lines(&mut product, &reference("b1"), 6).await.unwrap();
    assert_eq!(known(&product), ["o3", "o4", "o5"]);
    tx.rollback().await;
}

async fn of_many_small_lines_the_newest_are_learnt(store: AnyStore) {
    let lines = [("o1", 1), ("o2", 1), ("o3", 1), ("o4", 1), ("o5", 1)];
    stored(&store, &[("b1", 25)], &lines).await;
    let mut tx = begin(&store).await;
    let mut product = load(&mut tx, &about(sku(), &[], &["b1"])).await;
    tx.load_newest_lines(&mut product, &reference("b1"), 2).await.unwrap();
    assert_eq!(known(&product), ["o4", "o5"]);
    tx.rollback().await;
}

async fn full_batches_are_only_loaded_when_named(store: AnyStore) {
    stored(&store, &[("b1", 5), ("b2", 5), ("b3", 5)], &[("o1", 5), ("o2", 5)]).await;
    let names =
        |product: &Product| product.batches().iter().map(|b| b.reference.to_string()).collect::<Vec<_>>();
    let mut tx = begin(&store).await;
    assert_eq!(names(&load(&mut tx, &about(sku(), &[], &[])).await), ["b3"]);
    assert_eq!(names(&load(&mut tx, &about(sku(), &["o1"], &[])).await), ["b1", "b3"]);
    let by_name = WorkingSet { skus: [].into(), ..about(sku(), &[], &["b2"]) };
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

//! The tests of the store and of the whole system, on real servers.

use std::{collections::BTreeMap, sync::Arc};

use allocation::{
    domain::{Batch, BodyHash, MessageKey, Product, StockQuantity},
    ports::{
        error::StoreError,
        queue::QueueName,
        store::{ChangeSet, InboxCheck, Store, WorkingSet},
    },
    service::{message_bus::MessageBus, outcome::CommandOutcome},
};
use tokio::{sync::Barrier, task::JoinSet};

use crate::harness::{Command, TestSystem, allocate, bus, change_batch_quantity, create_batch};

use super::{handle, outcome, reference, shipment, sku};

/// A database on which this process handles the commands; no relay publishes their events.
async fn with_postgres(name: &str, commands: &[Command]) -> (TestSystem, MessageBus) {
    let system = TestSystem::new(name).await;
    let bus = bus(system.store());
    handle(&bus, commands).await;
    (system, bus)
}

async fn close(system: TestSystem) {
    system.assert_consistent().await;
    sqlx::raw_sql("truncate outbox").execute(&system.pool).await.unwrap();
    system.close().await;
}

/// The number of products, batches and inbox rows.
async fn rows(system: &TestSystem) -> i64 {
    system.count("select (select count(*) from products) + (select count(*) from batches)").await
        + system.count("select count(*) from inbox").await
}

/// The SKU and batch of each allocated line of an order.
async fn allocations(system: &TestSystem, orderid: &str) -> Vec<(String, String)> {
    let views = system.views();
    let allocations = views.allocations(orderid).await.unwrap();
    allocations.into_iter().map(|allocation| (allocation.sku, allocation.batchref)).collect()
}

fn pair(one: &str, other: &str) -> (String, String) {
    (one.to_owned(), other.to_owned())
}

/// I1 of the book.
#[tokio::test]
async fn a_product_is_found_by_any_of_its_batches() {
    let stock = [
        create_batch("b-1", "LAMP", 100),
        create_batch("b-2", "LAMP", 100),
        create_batch("b-3", "VASE", 100),
    ];
    let (system, _bus) = with_postgres("a_product_is_found_by_any_of_its_batches", &stock).await;
    let store = system.store();
    for (batch, product) in [("b-1", "LAMP"), ("b-2", "LAMP"), ("b-3", "VASE")] {
        let mut tx = store.begin(QueueName::Stock).await.unwrap();
        let working_set = WorkingSet { batches: [reference(batch)].into(), ..WorkingSet::default() };
        let found = tx.load_products(&working_set).await.unwrap().products;
        tx.rollback().await;
        let [found] = &found[..] else { panic!("{found:?}") };
        assert_eq!(found.sku().as_str(), product);
        assert!(found.batch(&reference(batch)).is_some());
    }
    close(system).await;
}

/// I2 of the book.
#[tokio::test]
async fn a_committed_line_is_stored_with_its_batch() {
    let commands = [create_batch("b-1", "LAMP", 100), allocate("o-1", "LAMP", 10)];
    let (system, _bus) = with_postgres("a_committed_line_is_stored_with_its_batch", &commands).await;
    let allocated = BTreeMap::from([(pair("o-1", "LAMP"), "b-1".to_owned())]);
    assert_eq!(system.allocated_lines().await, allocated);
    assert_eq!(system.count("select allocated::bigint from batches").await, 10);
    close(system).await;
}

fn product_with(name: &str, batch: &str) -> Product {
    let mut product = Product::new(sku(name));
    product.add_batch(Batch::new(reference(batch), StockQuantity::new(100u32).unwrap(), None)).unwrap();
    product
}

async fn commit(store: &dyn Store, products: Vec<Product>) -> Result<(), StoreError> {
    let mut tx = store.begin(QueueName::Stock).await.unwrap();
    let ids = products.iter().map(|product| format!("create {}", product.sku()));
    let keys: Vec<_> = ids
        .map(|id| MessageKey { message_id: id.into(), kind: "allocate", body_hash: BodyHash([1; 16]) })
        .collect();
    assert_eq!(tx.check_inbox(&keys).await.unwrap(), vec![InboxCheck::New; keys.len()]);
    tx.commit(ChangeSet { products, ..ChangeSet::default() }).await
}

/// I3 of the book.
#[tokio::test]
async fn without_a_commit_nothing_is_stored() {
    let (system, _bus) = with_postgres("without_a_commit_nothing_is_stored", &[]).await;
    let store = system.store();
    let mut tx = store.begin(QueueName::Stock).await.unwrap();
    let key =
        MessageKey { message_id: "create LAMP".into(), kind: "create_batch", body_hash: BodyHash([1; 16]) };
    assert_eq!(tx.check_inbox(&[key]).await.unwrap(), [InboxCheck::New]);
    drop(tx);
    assert_eq!(rows(&system).await, 0);
    // An inbox row of the first transaction would make this a duplicate.
    commit(&*store, vec![product_with("LAMP", "b-1")]).await.unwrap();
    assert_eq!(rows(&system).await, 3);
    close(system).await;
}

/// I4 of the book.
#[tokio::test]
async fn after_an_error_nothing_is_stored() {
    let (system, _bus) = with_postgres("after_an_error_nothing_is_stored", &[]).await;
    let store = system.store();
    commit(&*store, vec![product_with("LAMP", "b-1")]).await.unwrap();
    let good_and_bad = vec![product_with("STOOL", "b-2"), product_with("VASE", "b-1")];
    let failed = commit(&*store, good_and_bad).await;
    assert!(matches!(failed, Err(StoreError::AlreadyExists(_))), "{failed:?}");
    assert_eq!(rows(&system).await, 3);
    close(system).await;
}

/// I5 of the book. The second transaction waits for the first instead of failing.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_allocations_of_one_product_are_serialized() {
    let name = "concurrent_allocations_of_one_product_are_serialized";
    let (system, bus) = with_postgres(name, &[create_batch("b-1", "LAMP", 100)]).await;
    let (barrier, mut racing) = (Arc::new(Barrier::new(2)), JoinSet::new());
    for orderid in ["o-1", "o-2"] {
        let (bus, barrier) = (bus.clone(), barrier.clone());
        racing.spawn(async move {
            barrier.wait().await;
            outcome(&bus, &allocate(orderid, "LAMP", 10)).await
        });
    }
    let outcomes = racing.join_all().await;
    assert!(matches!(outcomes[..], [CommandOutcome::Handled, CommandOutcome::Handled]), "{outcomes:?}");
    assert_eq!(system.count("select version from products").await, 3);
    assert_eq!(system.count("select allocated::bigint from batches").await, 20);
    assert_eq!(system.allocated_lines().await.len(), 2);
    close(system).await;
}

/// I6 of the book.
#[tokio::test]
async fn the_allocations_of_an_order_contain_only_its_lines() {
    let commands = [
        shipment("b-lamp", "LAMP", 50, "2031-01-01"),
        shipment("b-vase", "VASE", 50, "2031-02-02"),
        allocate("o-1", "LAMP", 20),
        // Preferred to the batch of the line, which is not reallocated.
        create_batch("b-lamp-2", "LAMP", 50),
        allocate("o-1", "VASE", 20),
        allocate("o-2", "LAMP", 30),
        allocate("o-2", "VASE", 10),
    ];
    let (system, _bus) = with_postgres("the_allocations_of_an_order_contain_only_its_lines", &commands).await;
    assert_eq!(allocations(&system, "o-1").await, [pair("LAMP", "b-lamp"), pair("VASE", "b-vase")]);
    assert_eq!(allocations(&system, "o-2").await, [pair("LAMP", "b-lamp-2"), pair("VASE", "b-vase")]);
    close(system).await;
}

/// I7 of the book.
#[tokio::test]
async fn a_moved_line_is_read_in_its_current_batch() {
    let commands = [
        create_batch("b-1", "LAMP", 50),
        shipment("b-2", "LAMP", 50, "2031-01-01"),
        allocate("o-1", "LAMP", 40),
    ];
    let (system, bus) = with_postgres("a_moved_line_is_read_in_its_current_batch", &commands).await;
    assert_eq!(allocations(&system, "o-1").await, [pair("LAMP", "b-1")]);
    handle(&bus, &[change_batch_quantity("b-1", 10)]).await;
    assert_eq!(allocations(&system, "o-1").await, [pair("LAMP", "b-2")]);
    close(system).await;
}

/// E3 of the book.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_reduces_a_batch_moves_a_line_and_publishes_its_events() {
    let name = "a_message_that_reduces_a_batch_moves_a_line_and_publishes_its_events";
    let system = TestSystem::new(name).await;
    let worker = system.worker();
    let stock =
        [shipment("b-older", "LAMP", 10, "2031-01-01"), shipment("b-newer", "LAMP", 10, "2031-02-02")];
    system.sender.send_all(&stock).await;
    system.wait_handled(2).await;
    system.sender.send(&allocate("o-1", "LAMP", 10)).await;
    system.wait_handled(3).await;
    system.sender.send(&change_batch_quantity("b-older", 5)).await;
    let events = system.settled(4).await;
    let published: Vec<_> = events.iter().map(|event| (event.kind(), event.field("batchref"))).collect();
    assert_eq!(published, [("allocated", "b-older"), ("deallocated", "b-older"), ("allocated", "b-newer")]);
    assert!(events.iter().all(|event| event.field("orderid") == "o-1"));
    system.close_after([worker]).await;
}

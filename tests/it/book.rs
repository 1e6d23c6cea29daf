//! The tests of the book's system, and where their equivalents are.
//!
//! | number | what it asserts, in our words | file | test |
//! |---|---|---|---|
//! | U1 | a line takes its quantity from what its batch has | `src/domain/batch.rs` | `allocating_reduces_what_is_available` |
//! | U2 | a small line fits a large batch | `src/domain/batch.rs` | `a_line_fits_when_at_least_its_quantity_is_available` |
//! | U3 | a large line does not fit a small batch | `src/domain/batch.rs` | `a_line_fits_when_at_least_its_quantity_is_available` |
//! | U4 | a line fits a batch that has just as many | `src/domain/batch.rs` | `a_line_fits_when_at_least_its_quantity_is_available` |
//! | U5 | a line never goes into a batch of another product | `tests/it/book.rs` | `a_line_goes_into_no_batch_of_another_product` |
//! | U6 | a line that is asked for again is counted once | `src/domain/product.rs` | `the_same_line_again_changes_nothing` |
//! | U7 | what lies in the warehouse goes before what is at sea | `src/domain/product.rs` | `the_warehouse_is_preferred_to_ships` |
//! | U8 | of ships the first to arrive is taken | `src/domain/product.rs` | `the_earliest_ship_is_preferred` |
//! | U9 | it is known in which batch a line was placed | `src/domain/product.rs` | `the_warehouse_is_preferred_to_ships` |
//! | U10 | a placed line is told with order, product, quantity, batch | `src/domain/product.rs` | `an_allocation_is_told_with_its_batch_and_the_next_sequence` |
//! | U11 | a line without room is told as out of stock, and is no error | `src/domain/product.rs` | `a_line_that_fits_nowhere_waits_and_is_told_out_of_stock` |
//! | U12 | a product counts what happens to it | `src/domain/product.rs` | `an_allocation_is_told_with_its_batch_and_the_next_sequence` |
//! | U13 | the first batch of a product makes the product | `tests/it/book.rs` | `the_first_batch_makes_its_product_known` |
//! | U14 | a further batch joins the product's others | `tests/it/book.rs` | `a_further_batch_joins_those_of_its_product` |
//! | U15 | the handler of a line places it | `tests/it/book.rs` | `a_handled_line_takes_its_quantity` |
//! | U16 | an unknown product is refused by name, through the bus | `tests/it/book.rs` | `a_line_of_an_unknown_product_is_refused_by_name` |
//! | U17 | what a handler did is committed | `tests/it/book.rs` | `what_was_handled_is_kept_and_known_as_handled` |
//! | U18 | a line without stock is told to people, once | `tests/it/book.rs` | `a_line_without_stock_is_told_to_people_once` |
//! | U19 | a recounted batch has what was counted | `tests/it/book.rs` | `a_recounted_batch_has_what_was_counted` |
//! | U20 | a shrunken batch hands lines over to the next | `tests/it/book.rs` | `a_batch_that_shrinks_hands_a_line_to_the_next` |
//! | I1 | a product is found by any of its batches | `tests/it/book.rs` | `a_product_is_found_by_any_of_its_batches` |
//! | I2 | a committed line is stored with its batch | `tests/it/book.rs` | `a_committed_line_is_stored_with_its_batch` |
//! | I3 | without a commit nothing is stored | `tests/it/book.rs` | `without_a_commit_nothing_is_stored` |
//! | I4 | after an error nothing is stored | `tests/it/book.rs` | `after_an_error_nothing_is_stored` |
//! | I5 | two at once on one product never lose an update | `tests/it/book.rs` | `two_at_once_for_one_product_come_one_after_the_other` |
//! | I6 | the allocations of an order are those, and no others | `tests/it/book.rs` | `the_allocations_of_an_order_are_its_own` |
//! | I7 | a line that moved is read where it is now | `tests/it/book.rs` | `a_line_that_moved_is_read_where_it_is_now` |
//! | I8 | a real mail has sender, recipient and text | `tests/it/mail.rs` | `what_is_out_of_stock_is_told_by_one_mail_that_names_its_event` |
//! | E1 | a posted line is accepted and found where it should be | `tests/it/http.rs` | `a_line_that_was_posted_is_found_in_the_batch_that_arrives_first` |
//! | E2 | an unknown product is a bad request, its order not found | `tests/it/http.rs` | `what_nobody_has_heard_of_is_refused_by_name_and_leaves_no_trace` |
//! | E3 | a message about a smaller batch moves a line, and all hear | `tests/it/book.rs` | `a_message_about_a_smaller_batch_moves_a_line_and_everybody_hears_it` |
//! | C1 | files of batches and orders become one of allocations | `tests/it/csv.rs` | `orders_are_placed_in_batches_and_written_in_their_order` |
//! | C2 | allocations of an earlier run are kept | `tests/it/csv.rs` | `what_was_allocated_before_is_kept_and_takes_its_room` |
//! | R1 | a line that is taken back gives its quantity back | `src/domain/batch.rs` | `deallocating_gives_back` |
//! | R2 | taking back what was never placed changes nothing | `src/domain/product.rs` | `taking_back_a_line_that_is_not_there_changes_nothing` |
//! | R3 | being out of stock names the product | `src/domain/product.rs` | `a_line_that_fits_nowhere_waits_and_is_told_out_of_stock` |
//! | R4 | what is stored comes back as it was | `tests/it/store_contract.rs` | `a_commit_keeps_the_products` |
//! | R5 | a second commit adds only what is new | `tests/it/store_contract.rs` | `a_commit_keeps_the_products` |
//! | R6 | when a batch is full the next is taken | `src/domain/product.rs` | `a_full_batch_is_followed_by_the_next_one` |
//! | R7 | given up by the book later: no stock is no bad request | `tests/it/http.rs` | `a_line_without_stock_is_accepted_and_waits` |
//! | R8 | a line that is taken back makes room for another | `src/domain/product.rs` | `a_line_taken_back_makes_room_for_the_oldest_that_fits` |
//! | R9 | a shrunken batch moves one line and no more | `src/domain/product.rs` | `a_shrunken_batch_gives_its_newest_lines_to_others` |
//!
//! The numbers are those of a list of the tests that come with the book: U for units, I for integration, E from end to
//! end, C for files, R for earlier chapters whose rules still hold. What each asserts is said in our words and tested
//! with our data; where our rules are stricter, the test is, too. The book's system is "Architecture Patterns with
//! Python".

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use allocation::{
    adapters::memory::{MemoryStore, RecordingNotifier},
    domain::{Batch, BatchRef, BodyHash, MessageKey, Product, Sku, StockQuantity},
    ports::{
        error::StoreError,
        queue::QueueName,
        store::{ChangeSet, InboxCheck, Store, WorkingSet},
    },
    service::{message_bus::MessageBus, notifications::NotificationHandler, outcome::CommandOutcome},
};
use serde_json::json;
use tokio::{sync::Barrier, task::JoinSet};

use crate::harness::{
    Command, HandleAll as _, World, allocate, bus, change_batch_quantity, command, create_batch,
    notification_handler, queue_of,
};

fn sku(name: &str) -> Sku {
    Sku::new(name).unwrap()
}

fn reference(name: &str) -> BatchRef {
    BatchRef::new(name).unwrap()
}

/// A batch that arrives some day.
fn shipment(reference: &str, sku: &str, qty: u32, eta: &str) -> Command {
    create_batch(reference, sku, qty).with("eta", json!(eta))
}

/// Has the bus handle a command by itself.
async fn outcome(bus: &MessageBus, given: &Command) -> CommandOutcome {
    let received = command(&given.message_id, given.kind, &given.body);
    bus.handle_all(queue_of(given), &mut [received]).await.expect("the store is there").remove(0)
}

/// Has the bus handle commands, one after the other and all of them well.
async fn handle(bus: &MessageBus, commands: &[Command]) {
    for given in commands {
        let outcome = outcome(bus, given).await;
        assert!(matches!(outcome, CommandOutcome::Handled), "{given:?}: {outcome:?}");
    }
}

/// The bus with its handlers, over memory.
struct Shop {
    store: MemoryStore,
    mails: RecordingNotifier,
    bus: MessageBus,
    notifications: NotificationHandler,
}

impl Shop {
    async fn after(commands: &[Command]) -> Self {
        let (store, mails) = (MemoryStore::default(), RecordingNotifier::default());
        let bus = bus(Arc::new(store.clone()));
        let notifications = notification_handler(Arc::new(store.clone()), mails.clone());
        handle(&bus, commands).await;
        Self { store, mails, bus, notifications }
    }

    async fn product(&self, name: &str) -> Option<Product> {
        let kept = self.store.state().await;
        kept.product(&sku(name))
    }

    async fn available(&self, name: &str, batch: &str) -> u32 {
        let product = self.product(name).await.expect("the product is known");
        product.batch(&reference(batch)).expect("the batch is known").available()
    }

    /// The names of the events, in order.
    async fn events(&self) -> Vec<String> {
        let kept = self.store.state().await;
        kept.outbox.iter().map(|event| event.name.clone()).collect()
    }
}

/// U5.
#[tokio::test]
async fn a_line_goes_into_no_batch_of_another_product() {
    let stock = [create_batch("b-1", "LAMP", 100), create_batch("b-2", "VASE", 0)];
    let shop = Shop::after(&stock).await;
    handle(&shop.bus, &[allocate("o-1", "VASE", 10)]).await;
    assert_eq!(shop.available("LAMP", "b-1").await, 100);
    assert_eq!(shop.product("VASE").await.unwrap().backordered(), 10);
}

/// U13.
#[tokio::test]
async fn the_first_batch_makes_its_product_known() {
    let shop = Shop::after(&[]).await;
    assert_eq!(shop.product("LAMP").await, None);
    handle(&shop.bus, &[create_batch("b-1", "LAMP", 100)]).await;
    let product = shop.product("LAMP").await.unwrap();
    assert!(product.batch(&reference("b-1")).is_some());
    assert_eq!(product.version(), 1);
}

/// U14.
#[tokio::test]
async fn a_further_batch_joins_those_of_its_product() {
    let stock = [create_batch("b-1", "LAMP", 100), create_batch("b-2", "LAMP", 99)];
    let product = Shop::after(&stock).await.product("LAMP").await.unwrap();
    let references: Vec<_> = product.batches().iter().map(|batch| batch.reference.as_str()).collect();
    assert_eq!(references, ["b-1", "b-2"]);
}

/// U15.
#[tokio::test]
async fn a_handled_line_takes_its_quantity() {
    let shop = Shop::after(&[create_batch("b-1", "LAMP", 100), allocate("o-1", "LAMP", 10)]).await;
    assert_eq!(shop.available("LAMP", "b-1").await, 90);
}

/// U16.
#[tokio::test]
async fn a_line_of_an_unknown_product_is_refused_by_name() {
    let shop = Shop::after(&[create_batch("b-1", "LAMP", 100)]).await;
    match outcome(&shop.bus, &allocate("o-1", "NO-SUCH-LAMP", 10)).await {
        CommandOutcome::Recorded(failure, _) => assert_eq!(failure.to_string(), "Invalid sku NO-SUCH-LAMP"),
        other => panic!("{other:?}"),
    }
    assert_eq!(shop.product("NO-SUCH-LAMP").await, None);
}

/// U17.
#[tokio::test]
async fn what_was_handled_is_kept_and_known_as_handled() {
    let line = allocate("o-1", "LAMP", 10);
    let shop = Shop::after(&[create_batch("b-1", "LAMP", 100), line.clone()]).await;
    assert_eq!(shop.store.state().await.view.len(), 1);
    assert_eq!(shop.events().await, ["allocated"]);
    let again = outcome(&shop.bus, &line).await;
    assert!(matches!(again, CommandOutcome::Duplicate), "{again:?}");
    assert_eq!(shop.available("LAMP", "b-1").await, 90);
}

/// U18: the event that tells of it is published, comes back as a notification, and may come twice.
#[tokio::test]
async fn a_line_without_stock_is_told_to_people_once() {
    let shop = Shop::after(&[create_batch("b-1", "LAMP", 9), allocate("o-1", "LAMP", 10)]).await;
    let event = shop.store.state().await.outbox[0].clone();
    let body = serde_json::from_str(&event.body).unwrap();
    for first in [true, false] {
        let notification = command(&event.event_id.to_string(), &event.name, &body);
        let outcomes =
            shop.notifications.handle_all(QueueName::Notifications, &mut [notification]).await.unwrap();
        match outcomes[..] {
            [CommandOutcome::Handled] if first => {}
            [CommandOutcome::Duplicate] if !first => {}
            _ => panic!("{outcomes:?}"),
        }
    }
    let told = shop.mails.taken();
    let [notification] = &told[..] else { panic!("{told:?}") };
    assert_eq!(notification.subject, "Out of stock for LAMP");
    assert!(notification.text.contains("Order o-1 waits for 10"), "{}", notification.text);
}

/// U19.
#[tokio::test]
async fn a_recounted_batch_has_what_was_counted() {
    let shop = Shop::after(&[create_batch("b-1", "LAMP", 100)]).await;
    handle(&shop.bus, &[change_batch_quantity("b-1", 50)]).await;
    assert_eq!(shop.available("LAMP", "b-1").await, 50);
    assert_eq!(shop.events().await, [""; 0]);
}

/// U20, R9.
#[tokio::test]
async fn a_batch_that_shrinks_hands_a_line_to_the_next() {
    let stock = [create_batch("b-1", "LAMP", 50), shipment("b-2", "LAMP", 50, "2031-01-01")];
    let shop = Shop::after(&stock).await;
    handle(&shop.bus, &[allocate("o-1", "LAMP", 20), allocate("o-2", "LAMP", 20)]).await;
    assert_eq!((shop.available("LAMP", "b-1").await, shop.available("LAMP", "b-2").await), (10, 50));
    handle(&shop.bus, &[change_batch_quantity("b-1", 25)]).await;
    assert_eq!((shop.available("LAMP", "b-1").await, shop.available("LAMP", "b-2").await), (5, 30));
    assert_eq!(shop.events().await, ["allocated", "allocated", "deallocated", "allocated"]);
}

/// A world in which this process handles commands and nobody publishes anything.
async fn with_postgres(name: &str, commands: &[Command]) -> (World, MessageBus) {
    let world = World::new(name).await;
    let bus = bus(world.store());
    handle(&bus, commands).await;
    (world, bus)
}

async fn close(world: World) {
    world.assert_consistent().await;
    sqlx::raw_sql("truncate outbox").execute(&world.pool).await.unwrap();
    world.close().await;
}

/// How many rows there are of what commands make.
async fn rows(world: &World) -> i64 {
    world.count("select (select count(*) from products) + (select count(*) from batches)").await
        + world.count("select count(*) from inbox").await
}

/// Where the lines of an order are read to be.
async fn allocations(world: &World, orderid: &str) -> Vec<(String, String)> {
    let views = world.views();
    let allocations = views.allocations(orderid).await.unwrap();
    allocations.into_iter().map(|allocation| (allocation.sku, allocation.batchref)).collect()
}

fn pair(one: &str, other: &str) -> (String, String) {
    (one.to_owned(), other.to_owned())
}

/// I1.
#[tokio::test]
async fn a_product_is_found_by_any_of_its_batches() {
    let stock = [
        create_batch("b-1", "LAMP", 100),
        create_batch("b-2", "LAMP", 100),
        create_batch("b-3", "VASE", 100),
    ];
    let (world, _bus) = with_postgres("a_product_is_found_by_any_of_its_batches", &stock).await;
    let store = world.store();
    for (batch, product) in [("b-1", "LAMP"), ("b-2", "LAMP"), ("b-3", "VASE")] {
        let mut tx = store.begin(QueueName::Stock).await.unwrap();
        let working_set = WorkingSet { batches: [reference(batch)].into(), ..WorkingSet::default() };
        let found = tx.load_products(&working_set).await.unwrap();
        tx.rollback().await;
        let [found] = &found[..] else { panic!("{found:?}") };
        assert_eq!(found.sku().as_str(), product);
        assert!(found.batch(&reference(batch)).is_some());
    }
    close(world).await;
}

/// I2.
#[tokio::test]
async fn a_committed_line_is_stored_with_its_batch() {
    let commands = [create_batch("b-1", "LAMP", 100), allocate("o-1", "LAMP", 10)];
    let (world, _bus) = with_postgres("a_committed_line_is_stored_with_its_batch", &commands).await;
    let placed = BTreeMap::from([(pair("o-1", "LAMP"), "b-1".to_owned())]);
    assert_eq!(world.allocated_lines().await, placed);
    assert_eq!(world.count("select allocated::bigint from batches").await, 10);
    close(world).await;
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

/// I3.
#[tokio::test]
async fn without_a_commit_nothing_is_stored() {
    let (world, _bus) = with_postgres("without_a_commit_nothing_is_stored", &[]).await;
    let store = world.store();
    let mut tx = store.begin(QueueName::Stock).await.unwrap();
    let key =
        MessageKey { message_id: "create LAMP".into(), kind: "create_batch", body_hash: BodyHash([1; 16]) };
    assert_eq!(tx.check_inbox(&[key]).await.unwrap(), [InboxCheck::New]);
    drop(tx);
    assert_eq!(rows(&world).await, 0);
    // Had anything been left of it, this would be a repeat.
    commit(&*store, vec![product_with("LAMP", "b-1")]).await.unwrap();
    assert_eq!(rows(&world).await, 3);
    close(world).await;
}

/// I4.
#[tokio::test]
async fn after_an_error_nothing_is_stored() {
    let (world, _bus) = with_postgres("after_an_error_nothing_is_stored", &[]).await;
    let store = world.store();
    commit(&*store, vec![product_with("LAMP", "b-1")]).await.unwrap();
    let good_and_bad = vec![product_with("STOOL", "b-2"), product_with("VASE", "b-1")];
    let failed = commit(&*store, good_and_bad).await;
    assert!(matches!(failed, Err(StoreError::Conflict(_))), "{failed:?}");
    assert_eq!(rows(&world).await, 3);
    close(world).await;
}

/// I5: but instead of an error the second waits for the first, so that nobody has to ask again.
#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_for_one_product_come_one_after_the_other() {
    let name = "two_at_once_for_one_product_come_one_after_the_other";
    let (world, bus) = with_postgres(name, &[create_batch("b-1", "LAMP", 100)]).await;
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
    assert_eq!(world.count("select version from products").await, 3);
    assert_eq!(world.count("select allocated::bigint from batches").await, 20);
    assert_eq!(world.allocated_lines().await.len(), 2);
    close(world).await;
}

/// I6.
#[tokio::test]
async fn the_allocations_of_an_order_are_its_own() {
    let commands = [
        shipment("b-lamp", "LAMP", 50, "2031-01-01"),
        shipment("b-vase", "VASE", 50, "2031-02-02"),
        allocate("o-1", "LAMP", 20),
        // Better than where the line is, and it stays there all the same.
        create_batch("b-lamp-2", "LAMP", 50),
        allocate("o-1", "VASE", 20),
        allocate("o-2", "LAMP", 30),
        allocate("o-2", "VASE", 10),
    ];
    let (world, _bus) = with_postgres("the_allocations_of_an_order_are_its_own", &commands).await;
    assert_eq!(allocations(&world, "o-1").await, [pair("LAMP", "b-lamp"), pair("VASE", "b-vase")]);
    assert_eq!(allocations(&world, "o-2").await, [pair("LAMP", "b-lamp-2"), pair("VASE", "b-vase")]);
    close(world).await;
}

/// I7.
#[tokio::test]
async fn a_line_that_moved_is_read_where_it_is_now() {
    let commands = [
        create_batch("b-1", "LAMP", 50),
        shipment("b-2", "LAMP", 50, "2031-01-01"),
        allocate("o-1", "LAMP", 40),
    ];
    let (world, bus) = with_postgres("a_line_that_moved_is_read_where_it_is_now", &commands).await;
    assert_eq!(allocations(&world, "o-1").await, [pair("LAMP", "b-1")]);
    handle(&bus, &[change_batch_quantity("b-1", 10)]).await;
    assert_eq!(allocations(&world, "o-1").await, [pair("LAMP", "b-2")]);
    close(world).await;
}

/// E3.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_about_a_smaller_batch_moves_a_line_and_everybody_hears_it() {
    let name = "a_message_about_a_smaller_batch_moves_a_line_and_everybody_hears_it";
    let world = World::new(name).await;
    let worker = world.worker();
    let stock =
        [shipment("b-older", "LAMP", 10, "2031-01-01"), shipment("b-newer", "LAMP", 10, "2031-02-02")];
    world.sender.send_all(&stock).await;
    world.wait_handled(2).await;
    world.sender.send(&allocate("o-1", "LAMP", 10)).await;
    world.wait_handled(3).await;
    world.sender.send(&change_batch_quantity("b-older", 5)).await;
    let events = world.settled(4).await;
    let told: Vec<_> = events.iter().map(|event| (event.kind(), event.field("batchref"))).collect();
    assert_eq!(told, [("allocated", "b-older"), ("deallocated", "b-older"), ("allocated", "b-newer")]);
    assert!(events.iter().all(|event| event.field("orderid") == "o-1"));
    world.close_after([worker]).await;
}

/// A row of the table above.
struct Equivalent {
    number: &'static str,
    file: &'static str,
    test: &'static str,
}

fn equivalents() -> Vec<Equivalent> {
    let rows = include_str!("book.rs").lines().filter_map(|line| line.strip_prefix("//! | "));
    let cells = rows.map(|row| row.split('|').map(|cell| cell.trim().trim_matches('`')).collect::<Vec<_>>());
    cells
        .filter(|cells| cells[0] != "number")
        .map(|cells| {
            let [number, _, file, test, ""] = cells[..] else { panic!("not four cells: {cells:?}") };
            Equivalent { number, file, test }
        })
        .collect()
}

/// What stands above a test in a source, and none if there is no such test.
fn words_above(source: &str, test: &str) -> Option<String> {
    let lines: Vec<_> = source.lines().map(str::trim).collect();
    let function = format!("fn {test}(");
    let begin = lines.iter().position(|line| line.trim_start_matches("async ").starts_with(&function))?;
    let above = lines[..begin].iter().rev();
    let above: Vec<_> = above.take_while(|line| line.starts_with("///") || line.starts_with("#[")).collect();
    let marked = above.iter().any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"));
    // The promises of every store are named in a list, from which their tests are made.
    let listed = lines.contains(&format!("{test},").as_str());
    (marked || listed).then(|| above.into_iter().copied().filter(|line| line.starts_with("///")).collect())
}

#[test]
fn every_test_of_the_book_has_its_equivalent() {
    let table = equivalents();
    let named = |letter: char, last: u32| (1..=last).map(move |number| format!("{letter}{number}"));
    for number in named('U', 20).chain(named('I', 8)).chain(named('E', 3)).chain(named('C', 2)) {
        assert!(table.iter().any(|row| row.number == number), "{number} is not in the table");
    }
    for Equivalent { number, file, test } in table {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let source = fs::read_to_string(source).unwrap_or_else(|error| panic!("{file}: {error}"));
        let words = words_above(&source, test).unwrap_or_else(|| panic!("{file} has no test {test}"));
        let mut numbers = words.split(|character: char| !character.is_ascii_alphanumeric());
        assert!(numbers.any(|word| word == number), "{number} does not stand above {test} in {file}");
    }
}

//! The rules, as stories of one product. `tests/it/book/table.rs` lists the tests of the book.

use time::{Date, macros::date};

use crate::domain::{
    batch::Batch,
    event::{Event, RecordedEvent},
    rejection::Rejection,
    values::{BatchRef, OrderId, Quantity, Sku, StockQuantity},
};

use super::{line::Line, product::Product, rules::OfferProgress};

const TODAY: Date = date!(2026 - 11 - 02);
const TOMORROW: Date = date!(2026 - 11 - 03);
const LATER: Date = date!(2026 - 12 - 24);

pub(super) fn product(batches: &[(&str, u32, Option<Date>)]) -> Product {
    let mut product = Product::new(Sku::new("OAK-STOOL").unwrap());
    for (reference, quantity, eta) in batches {
        product
            .add_batch(Batch::new(batchref(reference), StockQuantity::new(*quantity).unwrap(), *eta))
            .unwrap();
    }
    product
}

pub(super) fn batchref(name: &str) -> BatchRef {
    BatchRef::new(name).unwrap()
}

pub(super) fn order(name: &str) -> OrderId {
    OrderId::new(name).unwrap()
}

pub(super) fn allocate(product: &mut Product, name: &str, quantity: u32) {
    product.allocate(&order(name), Quantity::new(quantity).unwrap()).unwrap();
}

fn change(product: &mut Product, reference: &str, quantity: u32) {
    product.change_batch_quantity(&batchref(reference), StockQuantity::new(quantity).unwrap(), None).unwrap();
    offer(product);
}

pub(super) fn offer(product: &mut Product) {
    assert_eq!(product.allocate_backorders(), OfferProgress::Done);
}

pub(super) fn available(product: &Product, reference: &str) -> u32 {
    product.batch(&batchref(reference)).unwrap().available()
}

pub(super) fn batch_of(product: &Product, name: &str) -> Option<String> {
    product.line(&order(name)).unwrap().batch.as_ref().map(ToString::to_string)
}

/// The events in short: `+order@batch` allocated, `-order@batch` deallocated, `?order` out of stock, `xorder` cancelled.
pub(super) fn events(product: &mut Product) -> Vec<String> {
    let short = |recorded: RecordedEvent| match recorded.event {
        Event::Allocated { orderid, batchref, .. } => format!("+{orderid}@{batchref}"),
        Event::Deallocated { orderid, batchref, .. } => format!("-{orderid}@{batchref}"),
        Event::OutOfStock { orderid, .. } => format!("?{orderid}"),
        Event::BackorderCancelled { orderid, .. } => format!("x{orderid}"),
    };
    product.take_events().into_iter().map(short).collect()
}

/// U7 and U9 of the book.
#[test]
fn stock_in_the_warehouse_is_allocated_before_shipments() {
    let mut product = product(&[("ship", 100, Some(TOMORROW)), ("warehouse", 100, None)]);
    allocate(&mut product, "o1", 10);
    assert_eq!((available(&product, "warehouse"), available(&product, "ship")), (90, 100));
    assert_eq!(batch_of(&product, "o1").as_deref(), Some("warehouse"));
}

/// U8 of the book.
#[test]
fn the_earliest_shipment_is_allocated_first() {
    let batches =
        [("medium", 100, Some(TOMORROW)), ("earliest", 100, Some(TODAY)), ("latest", 100, Some(LATER))];
    let mut product = product(&batches);
    allocate(&mut product, "o1", 10);
    let left = ["earliest", "medium", "latest"].map(|reference| available(&product, reference));
    assert_eq!(left, [90, 100, 100]);
}

/// The book's version number is the sequence here; every event increments it.
/// U10 and U12 of the book.
#[test]
fn an_allocation_emits_an_event_with_its_batch_and_the_next_sequence() {
    let mut product = product(&[("b", 100, None)]);
    allocate(&mut product, "o1", 10);
    allocate(&mut product, "o2", 1);
    let recorded = product.take_events();
    assert_eq!(recorded.iter().map(|event| event.sequence).collect::<Vec<_>>(), [Some(1), Some(2)]);
    let json = serde_json::to_string(&recorded[0].event).unwrap();
    assert_eq!(json, r#"{"orderid":"o1","sku":"OAK-STOOL","qty":10,"batchref":"b"}"#);
}

/// U6 of the book.
#[test]
fn the_same_line_again_changes_nothing() {
    let mut product = product(&[("b", 20, None)]);
    allocate(&mut product, "o1", 2);
    events(&mut product);
    let before = product.clone();
    allocate(&mut product, "o1", 2);
    assert_eq!(product, before);
}

#[test]
fn the_same_line_with_another_quantity_is_rejected_and_changes_nothing() {
    let mut product = product(&[("b", 20, None)]);
    allocate(&mut product, "o1", 2);
    let before = product.clone();
    let rejected = product.allocate(&order("o1"), Quantity::new(3u32).unwrap()).unwrap_err();
    assert_eq!(rejected.to_string(), "order o1 already has a line of 2 OAK-STOOL; it cannot become 3");
    assert_eq!(product, before);
}

/// U11 and R3 of the book.
#[test]
fn a_line_that_fits_no_batch_becomes_a_backorder_and_emits_out_of_stock() {
    let mut product = product(&[("b", 10, Some(TODAY))]);
    allocate(&mut product, "o1", 10);
    allocate(&mut product, "o2", 1);
    assert_eq!(events(&mut product), ["+o1@b", "?o2"]);
    assert_eq!((batch_of(&product, "o2"), product.backordered()), (None, 1));
}

/// R6 of the book.
#[test]
fn after_a_full_batch_the_next_one_is_allocated() {
    let mut product = product(&[("first", 10, Some(TODAY)), ("second", 10, Some(TOMORROW))]);
    allocate(&mut product, "o1", 10);
    allocate(&mut product, "o2", 10);
    assert_eq!(events(&mut product), ["+o1@first", "+o2@second"]);
}

/// R2 of the book.
#[test]
fn deallocating_an_unknown_line_changes_nothing() {
    let mut product = product(&[("b", 20, None)]);
    allocate(&mut product, "o1", 2);
    let before = product.clone();
    product.deallocate(&order("o2"));
    assert_eq!(product, before);
}

/// R8 of the book.
#[test]
fn freed_stock_goes_to_the_oldest_backorder_that_fits() {
    let mut product = product(&[("b", 10, None)]);
    for (name, quantity) in [("o1", 10), ("large", 11), ("older", 6), ("newer", 6), ("small", 4)] {
        allocate(&mut product, name, quantity);
    }
    events(&mut product);
    product.deallocate(&order("o1"));
    offer(&mut product);
    assert_eq!(events(&mut product), ["-o1@b", "+older@b", "+small@b"]);
    assert_eq!(product.backordered(), 17);
}

#[test]
fn deallocating_a_backorder_publishes_no_event() {
    let mut product = product(&[("b", 1, None)]);
    allocate(&mut product, "o1", 5);
    product.deallocate(&order("o1"));
    let recorded = product.take_events();
    assert_eq!(recorded.last().unwrap().sequence, None);
    assert_eq!(product.backordered(), 0);
    assert!(product.line(&order("o1")).is_none());
    assert!(product.changes().removed_lines.is_empty(), "it was never stored");
}

/// U19 of the book.
#[test]
fn a_changed_quantity_changes_what_is_available() {
    let mut product = product(&[("b", 100, None)]);
    change(&mut product, "b", 50);
    assert_eq!(available(&product, "b"), 50);
    assert_eq!(events(&mut product), [""; 0]);
}

/// In the book any line may be removed; here it is the newest.
/// U20 and R9 of the book.
#[test]
fn a_reduced_batch_loses_its_newest_lines_to_other_batches() {
    let mut product = product(&[("b1", 50, None), ("b2", 50, Some(TODAY))]);
    allocate(&mut product, "o1", 20);
    allocate(&mut product, "o2", 20);
    events(&mut product);
    change(&mut product, "b1", 25);
    assert_eq!((available(&product, "b1"), available(&product, "b2")), (5, 30));
    assert_eq!(events(&mut product), ["-o2@b1", "+o2@b2"]);
}

#[test]
fn lines_are_removed_newest_first_and_allocated_oldest_first() {
    let mut product = product(&[("b1", 30, None)]);
    for name in ["o1", "o2", "o3"] {
        allocate(&mut product, name, 10);
    }
    events(&mut product);
    change(&mut product, "b1", 9);
    assert_eq!(events(&mut product), ["-o3@b1", "-o2@b1", "-o1@b1"]);
    let later = Batch::new(batchref("b2"), StockQuantity::new(20u32).unwrap(), None);
    product.add_batch(later).unwrap();
    offer(&mut product);
    product.emit_if_backordered(&order("o1"));
    product.emit_if_backordered(&order("o3"));
    assert_eq!(events(&mut product), ["+o1@b2", "+o2@b2", "?o3"]);
}

#[test]
fn a_removed_line_keeps_its_position() {
    let mut product = product(&[("b", 10, None)]);
    allocate(&mut product, "old", 10);
    allocate(&mut product, "new", 10);
    change(&mut product, "b", 0);
    events(&mut product);
    change(&mut product, "b", 10);
    assert_eq!(events(&mut product), ["+old@b"]);
}

#[test]
fn a_stale_revision_is_skipped() {
    let mut product = product(&[("b", 10, None)]);
    product.change_batch_quantity(&batchref("b"), StockQuantity::new(7u32).unwrap(), Some(2)).unwrap();
    let before = product.clone();
    product.change_batch_quantity(&batchref("b"), StockQuantity::new(99u32).unwrap(), Some(2)).unwrap();
    assert_eq!(product, before);
}

#[test]
fn the_same_batch_again_changes_nothing_even_after_a_change_of_its_quantity() {
    let mut product = product(&[("b", 10, Some(TODAY))]);
    change(&mut product, "b", 5);
    let before = product.clone();
    let batch = |quantity: u32, eta| Batch::new(batchref("b"), StockQuantity::new(quantity).unwrap(), eta);
    product.add_batch(batch(10, Some(TODAY))).unwrap();
    assert_eq!(product.add_batch(batch(5, Some(TODAY))), Err(Rejection::BatchMismatch(batchref("b"))));
    assert_eq!(product.add_batch(batch(10, None)), Err(Rejection::BatchMismatch(batchref("b"))));
    assert_eq!(product, before);
}

#[test]
fn in_memory_changes_win_over_loaded_rows() {
    let mut product = Product::from_stored(Sku::new("OAK-STOOL").unwrap(), 3, 7, 2, 0);
    let in_batch =
        |position| Line { quantity: Quantity::new(5u32).unwrap(), position, batch: Some(batchref("b")) };
    product.attach_batch(Batch::from_stored(batchref("b"), None, 10, 10, 10, None));
    product.attach_line(order("o1"), in_batch(1));
    product.deallocate(&order("o1"));
    product.attach_line(order("o1"), in_batch(1));
    product.attach_batch(Batch::from_stored(batchref("b"), None, 10, 10, 10, None));
    assert_eq!(available(&product, "b"), 5);
    assert!(product.line(&order("o1")).is_none());
    assert_eq!(product.changes().removed_lines, [&order("o1")]);
    assert_eq!(product.known_lines().collect::<Vec<_>>(), [&order("o1")]);
}

#[test]
fn batches_are_in_the_order_of_allocation() {
    let product =
        product(&[("b", 1, Some(LATER)), ("a", 1, Some(LATER)), ("z", 0, None), ("c", 1, Some(TODAY))]);
    let references: Vec<_> = product.batches().iter().map(|batch| batch.reference.as_str()).collect();
    assert_eq!(references, ["z", "c", "a", "b"]);
}

/// Compares the index with a search of every batch.
#[test]
fn the_first_batch_that_a_line_fits_into_is_found() {
    let quantities = [3, 100, 0, 17, 101, 16, 18, 1, 99, 5000, 4700, 2];
    let names: Vec<_> = (0..quantities.len()).map(|number| format!("b{number:02}")).collect();
    let batches: Vec<_> =
        names.iter().zip(quantities).map(|(name, quantity)| (name.as_str(), quantity, None)).collect();
    let mut product = product(&batches);
    for step in 0..40 {
        let quantity = Quantity::new([1u32, 2, 15, 16, 17, 18, 97, 100, 102, 4_800][step % 10]).unwrap();
        let expected = product.batches().iter().find(|batch| batch.can_allocate(quantity));
        let expected = expected.map(|batch| batch.reference.to_string());
        let name = format!("o{step}");
        allocate(&mut product, &name, quantity.get());
        assert_eq!(batch_of(&product, &name), expected, "{quantity}");
    }
}

/// A product with the stored batches b1 and b2, of which b1 has the stored line o1.
fn loaded() -> Product {
    let mut product = Product::from_stored(Sku::new("OAK-STOOL").unwrap(), 3, 7, 2, 0);
    for (name, allocated) in [("b1", 4), ("b2", 0)] {
        product.attach_batch(Batch::from_stored(batchref(name), None, 10, 10, allocated, None));
    }
    let quantity = Quantity::new(4).unwrap();
    product.attach_line(order("o1"), Line { quantity, position: 1, batch: Some(batchref("b1")) });
    product
}

/// The changes in short: new and changed batches, removed, new and moved lines.
fn changes(product: &Product) -> [Vec<String>; 5] {
    let changes = product.changes();
    let batches = |batches: &[&Batch]| batches.iter().map(|batch| batch.reference.to_string()).collect();
    let lines = |lines: &[(&OrderId, &Line)]| lines.iter().map(|(orderid, _)| orderid.to_string()).collect();
    [
        batches(&changes.new_batches),
        batches(&changes.changed_batches),
        changes.removed_lines.iter().map(ToString::to_string).collect(),
        lines(&changes.new_lines),
        lines(&changes.moved_lines),
    ]
}

#[test]
fn a_store_writes_what_has_changed_and_nothing_else() {
    let mut product = loaded();
    assert!(!product.is_changed() && changes(&product).concat().is_empty());
    allocate(&mut product, "o2", 6);
    assert!(product.is_changed());
    assert_eq!(changes(&product).map(|names| names.join(" ")), ["", "b1", "", "o2", ""]);
    change(&mut product, "b1", 0);
    assert_eq!(changes(&product).map(|names| names.join(" ")), ["", "b1 b2", "", "o2", "o1"]);
    product.deallocate(&order("o1"));
    assert_eq!(changes(&product).map(|names| names.join(" ")), ["", "b1 b2", "o1", "o2", ""]);
    let known: Vec<_> = product.known_lines().map(ToString::to_string).collect();
    assert!(known.len() == 2 && known.contains(&"o1".into()) && known.contains(&"o2".into()), "{known:?}");
}

#[test]
fn a_new_batch_is_new_although_it_has_changed() {
    let mut product = loaded();
    product.add_batch(Batch::new(batchref("b3"), StockQuantity::new(5u32).unwrap(), None)).unwrap();
    assert!(product.is_changed());
    allocate(&mut product, "o2", 6);
    allocate(&mut product, "o3", 10);
    allocate(&mut product, "o4", 5);
    assert_eq!(changes(&product).map(|names| names.join(" ")), ["b3", "b1 b2", "", "o2 o3 o4", ""]);
}

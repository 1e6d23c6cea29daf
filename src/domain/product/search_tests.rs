//! Products of which only a part is attached.

use crate::domain::{
    batch::Batch,
    values::{Quantity, Sku, StockQuantity},
};

use super::{
    batches::{BatchRank, BatchSearch, Batches},
    line::Line,
    product::Product,
    rules::OfferProgress,
    tests::{allocate, available, batch_of, batchref, events, offer, order, product},
};

/// A product with the batches that the first search found.
fn partly_loaded(found: &[(&str, u32)]) -> Product {
    let mut product = Product::from_stored(Sku::new("OAK-STOOL").unwrap(), 3, 7, 2, 0);
    let search = BatchSearch { at_most: found.len(), ..BatchSearch::FIRST };
    product.attach_found(&search, stored(found));
    product
}

fn stored(batches: &[(&str, u32)]) -> Vec<Batch> {
    let stored = |(name, quantity): &(&str, u32)| {
        Batch::from_stored(batchref(name), None, *quantity, *quantity, 0, None)
    };
    batches.iter().map(stored).collect()
}

#[test]
fn a_search_is_missing_only_if_an_unattached_batch_may_come_first() {
    let mut product = partly_loaded(&[("b1", 5), ("b2", 1)]);
    let quantity = |number: u32| Quantity::new(number).unwrap();
    assert_eq!(product.missing_search(quantity(5)), None);
    // A batch that is attached because it is named may be behind one that is not attached.
    product.attach_batch(Batch::from_stored(batchref("b9"), None, 9, 9, 0, None));
    let search = product.missing_search(quantity(7)).unwrap();
    assert_eq!((search.quantity, search.after.as_ref().unwrap().reference.as_str()), (7, "b2"));
    product.attach_found(&BatchSearch { at_most: 2, ..search }, stored(&[("b4", 7), ("b6", 8)]));
    assert_eq!(product.missing_search(quantity(7)), None);
    assert_eq!(product.missing_search(quantity(8)), None, "what was searched for 7 holds for 8");
    let search = product.missing_search(quantity(9)).unwrap();
    assert_eq!(search.after.as_ref().unwrap().reference.as_str(), "b6");
    let smaller = product.missing_search(quantity(6)).unwrap();
    assert_eq!(smaller.after.as_ref().unwrap().reference.as_str(), "b2");
    product.attach_found(&search, Vec::new());
    assert_eq!(product.missing_search(quantity(9)), None, "no other batch has room");
    assert_eq!(product.missing_search(quantity(10)), None, "no batch has room");
    allocate(&mut product, "o1", 9);
    assert_eq!(batch_of(&product, "o1").as_deref(), Some("b9"));
}

#[test]
fn a_stored_product_has_what_it_was_stored_with() {
    let mut product = partly_loaded(&[("b1", 5)]);
    assert_eq!((product.version(), product.sequence(), product.last_position()), (3, 7, 2));
    allocate(&mut product, "o1", 1);
    assert_eq!((product.version(), product.sequence(), product.last_position()), (3, 8, 3));
    let lines: Vec<_> = product.lines().map(|(orderid, line)| (orderid.as_str(), line.position)).collect();
    assert_eq!(lines, [("o1", 3)]);
}

#[test]
fn each_search_looks_for_twice_as_many_batches() {
    let mut product = partly_loaded(&[("b1", 1)]);
    for doublings in 1..4 {
        let search = product.missing_search(Quantity::new(5).unwrap()).unwrap();
        assert_eq!(search.at_most, BatchSearch::FIRST.at_most << doublings);
        let found = BatchSearch { at_most: 1, ..search };
        product.attach_found(&found, stored(&[(&format!("b{}", doublings + 1), 1)]));
    }
}

#[test]
fn backorders_are_needed_if_stock_was_freed_and_some_are_not_attached() {
    let mut product = Product::from_stored(Sku::new("OAK-STOOL").unwrap(), 1, 0, 0, 4);
    product.attach_found(&BatchSearch::FIRST, stored(&[("b1", 0)]));
    assert!(!product.needs_waiting_lines(), "no stock was freed");
    product.change_batch_quantity(&batchref("b1"), StockQuantity::new(6u32).unwrap(), None).unwrap();
    assert!(product.needs_waiting_lines());
    assert_eq!(product.freed_stock().collect::<Vec<_>>(), [6]);
    let line = Line { quantity: Quantity::new(4).unwrap(), position: 1, batch: None };
    product.attach_line(order("o1"), line);
    assert!(!product.needs_waiting_lines(), "all are attached");
}

#[test]
fn a_line_that_a_batch_has_lost_waits_for_the_search_of_its_next_batch() {
    let mut product = partly_loaded(&[("b1", 5)]);
    allocate(&mut product, "o1", 5);
    product.change_batch_quantity(&batchref("b1"), StockQuantity::new(0u32).unwrap(), None).unwrap();
    let OfferProgress::Missing(search) = product.allocate_backorders() else {
        panic!("the next batch is not attached");
    };
    product.attach_found(&search, stored(&[("b2", 5)]));
    offer(&mut product);
    assert_eq!(events(&mut product), ["+o1@b1", "-o1@b1", "+o1@b2"]);
}

#[test]
fn freed_stock_is_offered_in_portions() {
    let mut product = product(&[("b", 0, None)]);
    for number in 0..1200 {
        allocate(&mut product, &format!("o{number}"), 1);
    }
    product.change_batch_quantity(&batchref("b"), StockQuantity::new(1100u32).unwrap(), None).unwrap();
    assert_eq!(product.allocate_backorders(), OfferProgress::Paused);
    assert_eq!(product.allocate_backorders(), OfferProgress::Paused);
    offer(&mut product);
    assert_eq!((available(&product, "b"), product.backordered()), (0, 100));
    assert_eq!(batch_of(&product, "o1099").as_deref(), Some("b"));
}

#[test]
fn a_search_has_the_batches_with_enough_stock_in_the_order_of_allocation() {
    let mut batches = Batches::default();
    for batch in stored(&[("b3", 7), ("b1", 100), ("b2", 6), ("b4", 0)]) {
        batches.insert(batch);
    }
    let found = |quantity, after: Option<&str>, at_most| -> Vec<String> {
        let after = after.map(|name| BatchRank { eta: None, reference: batchref(name) });
        let found = batches.search(&BatchSearch { quantity, after, at_most });
        found.into_iter().map(|batch| batch.reference.to_string()).collect()
    };
    assert_eq!(found(7, None, 9), ["b1", "b3"]);
    assert_eq!(found(6, None, 9), ["b1", "b2", "b3"]);
    assert_eq!(found(6, None, 2), ["b1", "b2"]);
    assert_eq!(found(1, Some("b1"), 1), ["b2"]);
}

#[test]
fn a_batch_that_replaces_another_one_is_found_by_its_own_stock() {
    let mut batches = Batches::default();
    for batch in stored(&[("b1", 100), ("b2", 60), ("b1", 3)]) {
        batches.insert(batch);
    }
    let first = batches.first_fit(Quantity::new(50).unwrap()).unwrap();
    assert_eq!(first.reference, batchref("b2"));
}

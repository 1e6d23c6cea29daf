//! Batches are loaded as far as a decision needs them.

use allocation::domain::{Batch, BatchRank, BatchSearch, Product, Quantity, Sku};
use time::{Date, macros::date};

use super::{AnyStore, begin, commit, load, reference, sku, working_set};

pub(super) fn names<'a>(batches: impl Iterator<Item = &'a Batch>) -> Vec<String> {
    batches.map(|batch| batch.reference.to_string()).collect()
}

/// A batch with some of its stock allocated.
struct Stock {
    purchased: u32,
    allocated: u32,
    eta: Option<Date>,
}

/// Stores a product whose batches `b000`, `b001` … have this stock.
async fn store_stock(store: &AnyStore, stock: &[Stock]) {
    let mut product = Product::new(sku());
    for (number, Stock { purchased, allocated, eta }) in stock.iter().enumerate() {
        let reference = reference(&format!("b{number:03}"));
        let batch = Batch::from_stored(reference, *eta, *purchased, *purchased, *allocated, None);
        product.add_batch(batch).unwrap();
    }
    commit(begin(store).await, product).await.unwrap();
}

/// Ends of ranges within size classes, and of classes.
const RANGES: [u32; 6] =
    [70_000, 70_016, (1 << 30) + 512, (1 << 30) + (1 << 18), (1 << 30) + (5 << 18), 9 << 27];

/// Batches of all size classes with and without allocations, in an order of allocation that is not that of their names.
fn much_stock() -> Vec<Stock> {
    let small = [1, 2, 7, 15, 16, 17, 31, 32, 100, 101, 102, 103, 104, 1_000, 1_001];
    let near_ranges = RANGES.iter().flat_map(|end| [end - 1, *end, end + 1]);
    let quantities: Vec<_> = small.into_iter().chain(near_ranges).chain([i32::MAX as u32]).collect();
    let etas = [None, Some(date!(2026 - 12 - 24)), Some(date!(2026 - 11 - 02))];
    let stock = |number: usize| {
        let purchased = quantities[number * 7 % quantities.len()];
        let allocated = if number.is_multiple_of(3) { purchased / 9 } else { 0 };
        Stock { purchased, allocated, eta: etas[number * 5 % 4 % 3] }
    };
    (0..100).map(stock).collect()
}

pub(super) async fn a_product_is_loaded_with_its_first_batches(store: AnyStore) {
    store_stock(&store, &much_stock()).await;
    let mut tx = begin(&store).await;
    let mut product = load(&mut tx, &working_set(sku(), &[], &["b099"])).await;
    let all = tx.search_batches(&sku(), &BatchSearch { at_most: 1000, ..BatchSearch::FIRST }).await.unwrap();
    assert_eq!(all.len(), 100);
    assert!(all.is_sorted_by_key(BatchRank::of));
    let mut first = names(all[..BatchSearch::FIRST.at_most].iter());
    first.retain(|name| name != "b099");
    let loaded = names(product.batches().iter());
    assert_eq!(loaded.iter().filter(|name| *name != "b099").cloned().collect::<Vec<_>>(), first);
    assert!(product.batch(&reference("b099")).is_some(), "it is named");
    // Every batch is found by repeated searches.
    let largest = Quantity::new(i32::MAX as u32).unwrap();
    while let Some(search) = product.missing_search(largest) {
        let found = tx.search_batches(&sku(), &search).await.unwrap();
        product.attach_found(&search, found);
    }
    let expected = all.iter().find(|batch| batch.can_allocate(largest)).map(|batch| &batch.reference);
    assert_eq!(product.batches().first_fit(largest).map(|batch| &batch.reference), expected);
    tx.rollback().await;
}

pub(super) async fn a_search_finds_the_first_batches_with_enough_stock_after_another(store: AnyStore) {
    store_stock(&store, &much_stock()).await;
    let mut tx = begin(&store).await;
    let all = tx.search_batches(&sku(), &BatchSearch { at_most: 1000, ..BatchSearch::FIRST }).await.unwrap();
    let small = [1, 2, 14, 15, 16, 17, 18, 100, 101, 103, 104, 999, 62_300];
    for quantity in small.into_iter().chain(RANGES).chain(RANGES.map(|end| end + 1)).chain([i32::MAX as u32])
    {
        for after in [None, Some(&all[0]), Some(&all[30]), Some(&all[60]), Some(&all[99])] {
            for at_most in [1, 3, 200] {
                let search = BatchSearch { quantity, after: after.map(BatchRank::of), at_most };
                let found = tx.search_batches(&sku(), &search).await.unwrap();
                let after = after.map(BatchRank::of);
                let matches = all.iter().filter(|batch| {
                    after.as_ref().is_none_or(|after| BatchRank::of(batch) > *after)
                        && batch.available() >= quantity
                });
                assert_eq!(names(found.iter()), names(matches.take(at_most)), "{search:?}");
            }
        }
    }
    assert_eq!(tx.search_batches(&Sku::new("NO-STOOL").unwrap(), &BatchSearch::FIRST).await.unwrap(), []);
    tx.rollback().await;
}

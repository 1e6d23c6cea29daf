//! The tests of the book, and where their equivalents are.
//!
//! | number | what it asserts | file | test |
//! |---|---|---|---|
//! | U1 | allocating reduces the available quantity | `src/domain/batch.rs` | `allocating_reduces_the_available_quantity` |
//! | U2 | a small line fits a large batch | `src/domain/batch.rs` | `a_line_fits_when_at_least_its_quantity_is_available` |
//! | U3 | a large line does not fit a small batch | `src/domain/batch.rs` | `a_line_fits_when_at_least_its_quantity_is_available` |
//! | U4 | a line fits a batch with exactly its quantity | `src/domain/batch.rs` | `a_line_fits_when_at_least_its_quantity_is_available` |
//! | U5 | a line is not allocated to a batch of another product | `tests/it/book/handlers.rs` | `a_line_is_not_allocated_to_a_batch_of_another_product` |
//! | U6 | allocating a line twice has one effect | `src/domain/product/tests.rs` | `the_same_line_again_changes_nothing` |
//! | U7 | stock in the warehouse comes before shipments | `src/domain/product/tests.rs` | `stock_in_the_warehouse_is_allocated_before_shipments` |
//! | U8 | the earliest shipment comes first | `src/domain/product/tests.rs` | `the_earliest_shipment_is_allocated_first` |
//! | U9 | the batch of an allocated line is known | `src/domain/product/tests.rs` | `stock_in_the_warehouse_is_allocated_before_shipments` |
//! | U10 | the event of an allocation has order, product, quantity, batch | `src/domain/product/tests.rs` | `an_allocation_emits_an_event_with_its_batch_and_the_next_sequence` |
//! | U11 | a line that does not fit emits out of stock, which is no error | `src/domain/product/tests.rs` | `a_line_that_fits_no_batch_becomes_a_backorder_and_emits_out_of_stock` |
//! | U12 | a product has a version number | `src/domain/product/tests.rs` | `an_allocation_emits_an_event_with_its_batch_and_the_next_sequence` |
//! | U13 | the first batch creates the product | `tests/it/book/handlers.rs` | `the_first_batch_creates_its_product` |
//! | U14 | a second batch is added to the product | `tests/it/book/handlers.rs` | `a_second_batch_is_added_to_its_product` |
//! | U15 | the handler allocates a line | `tests/it/book/handlers.rs` | `a_handled_line_reduces_the_available_quantity` |
//! | U16 | an unknown product is rejected by name, through the bus | `tests/it/book/handlers.rs` | `a_line_of_an_unknown_product_is_rejected_by_name` |
//! | U17 | a handler's changes are committed | `tests/it/book/handlers.rs` | `a_handled_command_is_committed_and_recorded_in_the_inbox` |
//! | U18 | a line without stock causes one notification | `tests/it/book/handlers.rs` | `a_line_without_stock_causes_one_notification` |
//! | U19 | a changed batch has the new quantity | `tests/it/book/handlers.rs` | `a_changed_batch_has_the_new_quantity` |
//! | U20 | a reduced batch loses lines to the next batch | `tests/it/book/handlers.rs` | `a_reduced_batch_loses_a_line_to_the_next_batch` |
//! | I1 | a product is found by any of its batches | `tests/it/book/stored.rs` | `a_product_is_found_by_any_of_its_batches` |
//! | I2 | a committed line is stored with its batch | `tests/it/book/stored.rs` | `a_committed_line_is_stored_with_its_batch` |
//! | I3 | without a commit nothing is stored | `tests/it/book/stored.rs` | `without_a_commit_nothing_is_stored` |
//! | I4 | after an error nothing is stored | `tests/it/book/stored.rs` | `after_an_error_nothing_is_stored` |
//! | I5 | concurrent updates of one product are not lost | `tests/it/book/stored.rs` | `concurrent_allocations_of_one_product_are_serialized` |
//! | I6 | the allocations of an order contain only its lines | `tests/it/book/stored.rs` | `the_allocations_of_an_order_contain_only_its_lines` |
//! | I7 | a moved line is read in its current batch | `tests/it/book/stored.rs` | `a_moved_line_is_read_in_its_current_batch` |
//! | I8 | a mail has sender, recipient and text | `tests/it/mail.rs` | `a_mail_names_sender_recipients_sku_and_event` |
//! | E1 | a posted line is accepted and allocated | `tests/it/http.rs` | `a_posted_line_is_allocated_to_the_batch_that_arrives_first` |
//! | E2 | an unknown product is a bad request, its order is not found | `tests/it/http.rs` | `an_unknown_sku_or_batch_returns_400_and_writes_nothing` |
//! | E3 | a message that reduces a batch moves a line and publishes events | `tests/it/book/stored.rs` | `a_message_that_reduces_a_batch_moves_a_line_and_publishes_its_events` |
//! | C1 | a file of allocations is written from batches and orders | `tests/it/csv.rs` | `order_lines_are_allocated_and_written_in_the_order_of_the_file` |
//! | C2 | allocations of an earlier run are kept | `tests/it/csv.rs` | `earlier_allocations_are_kept_and_reduce_the_available_quantity` |
//! | R1 | deallocating restores the available quantity | `src/domain/batch.rs` | `deallocating_restores_the_available_quantity` |
//! | R2 | deallocating an unknown line changes nothing | `src/domain/product/tests.rs` | `deallocating_an_unknown_line_changes_nothing` |
//! | R3 | out of stock names the product | `src/domain/product/tests.rs` | `a_line_that_fits_no_batch_becomes_a_backorder_and_emits_out_of_stock` |
//! | R4 | stored objects are loaded unchanged | `tests/it/store_contract.rs` | `a_commit_stores_the_products` |
//! | R5 | a second commit adds only the changes | `tests/it/store_contract.rs` | `a_commit_stores_the_products` |
//! | R6 | after a full batch the next one is allocated | `src/domain/product/tests.rs` | `after_a_full_batch_the_next_one_is_allocated` |
//! | R7 | in later chapters: no stock is no bad request | `tests/it/http.rs` | `a_line_without_stock_is_accepted_as_a_backorder` |
//! | R8 | a deallocated line frees stock for another one | `src/domain/product/tests.rs` | `freed_stock_goes_to_the_oldest_backorder_that_fits` |
//! | R9 | a reduced batch moves no more lines than necessary | `src/domain/product/tests.rs` | `a_reduced_batch_loses_its_newest_lines_to_other_batches` |
//!
//! U are unit tests, I integration tests, E end-to-end tests, C tests with files, R tests of earlier chapters whose rules still
//! apply. Where the rules here are stricter, the test is, too.

use std::{fs, path::Path};

/// A row of the table.
struct Equivalent {
    number: &'static str,
    file: &'static str,
    test: &'static str,
}

fn equivalents() -> Vec<Equivalent> {
    let rows = include_str!("table.rs").lines().filter_map(|line| line.strip_prefix("//! | "));
    let cells = rows.map(|row| row.split('|').map(|cell| cell.trim().trim_matches('`')).collect::<Vec<_>>());
    cells
        .filter(|cells| cells[0] != "number")
        .map(|cells| {
            let [number, _, file, test, ""] = cells[..] else { panic!("not four cells: {cells:?}") };
            Equivalent { number, file, test }
        })
        .collect()
}

/// The doc comment of a test; `None` if there is no such test.
fn doc_comment(source: &str, test: &str) -> Option<String> {
    let lines: Vec<_> = source.lines().map(str::trim).collect();
    let function = format!("fn {test}(");
    let begin = lines.iter().position(|line| line.trim_start_matches("async ").starts_with(&function))?;
    let above = lines[..begin].iter().rev();
    let above: Vec<_> = above.take_while(|line| line.starts_with("///") || line.starts_with("#[")).collect();
    let marked = above.iter().any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"));
    // A macro makes the tests of every store from a list.
    let listed = lines.contains(&format!("{test},").as_str());
    (marked || listed).then(|| above.into_iter().copied().filter(|line| line.starts_with("///")).collect())
}

#[test]
fn every_test_of_the_book_has_an_equivalent() {
    let table = equivalents();
    let named = |letter: char, last: u32| (1..=last).map(move |number| format!("{letter}{number}"));
    for number in named('U', 20).chain(named('I', 8)).chain(named('E', 3)).chain(named('C', 2)) {
        assert!(table.iter().any(|row| row.number == number), "{number} is not in the table");
    }
    for Equivalent { number, file, test } in table {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let source = fs::read_to_string(source).unwrap_or_else(|error| panic!("{file}: {error}"));
        let comment = doc_comment(&source, test).unwrap_or_else(|| panic!("{file} has no test {test}"));
        let mut numbers = comment.split(|character: char| !character.is_ascii_alphanumeric());
        assert!(numbers.any(|word| word == number), "{test} in {file} does not name {number}");
    }
}

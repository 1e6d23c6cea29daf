//! What must hold for the content of any CSV files, for fuzzing.

use crate::adapters::csv::{self, RowError};

use super::{
    csv_rows::{ALLOCATION_COLUMNS, BATCH_COLUMNS, ORDER_COLUMNS},
    csv_run::{CsvErrors, CsvFiles, allocate, with_columns},
    csv_stock::Allocation,
};

/// Between the contents of the three files: a character that has no meaning in CSV.
const GROUP_SEPARATOR: u8 = 0x1d;

/// Allocates the orders of the files, in the order batches, orders, allocations. What was allocated can be read again, and
/// then there is nothing more to allocate.
pub(crate) fn check_csv(data: &[u8]) {
    let mut texts = data.splitn(3, |byte| *byte == GROUP_SEPARATOR);
    let [batches, orders, allocations] = [(); 3].map(|()| texts.next());
    let (batches, orders) = (batches.unwrap_or_default(), orders.unwrap_or_default());
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime starts");
    runtime.block_on(async {
        let first = match allocate(files(batches, orders, allocations), |_, _| {}).await {
            Ok((_, allocations)) => allocations,
            Err(error) => {
                let errors = &error.downcast_ref::<CsvErrors>().expect("only the rows are wrong").0;
                let names_its_file = |error: &String| error.contains(".csv, line ");
                assert!(!errors.is_empty() && errors.iter().all(names_its_file), "{errors:?}");
                return;
            }
        };
        let written = written(&first);
        let (report, second) = allocate(files(batches, orders, Some(&written)), |_, _| {})
            .await
            .unwrap_or_else(|error| panic!("the program reads what it has written: {error}"));
        assert_eq!((report.kept, report.placed, second.len()), (first.len(), 0, first.len()));
    });
}

fn files(batches: &[u8], orders: &[u8], allocations: Option<&[u8]>) -> CsvFiles {
    CsvFiles {
        batches: rows(batches, &BATCH_COLUMNS),
        orders: rows(orders, &ORDER_COLUMNS),
        allocations: allocations.map(|text| rows(text, &ALLOCATION_COLUMNS)).unwrap_or_default(),
    }
}

/// The rows of a file, each in a line of it.
fn rows(text: &[u8], columns: &[&str]) -> (Vec<csv::Row>, Vec<RowError>) {
    let (rows, errors) = csv::parse(text, columns).expect("only the rows of a text can be wrong");
    let last = 1 + text.iter().map(|byte| u64::from(*byte == b'\n')).sum::<u64>();
    let lines = rows.iter().map(|row| row.line).chain(errors.iter().map(|error| error.line));
    assert!(lines.into_iter().all(|line| (1..=last).contains(&line)), "a row has a line of the file");
    (rows, errors)
}

fn written(allocations: &[Allocation]) -> Vec<u8> {
    let mut text = Vec::new();
    with_columns(allocations, |rows| csv::write(&mut text, &ALLOCATION_COLUMNS, rows))
        .expect("memory can be written");
    text
}

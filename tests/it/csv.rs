//! `allocation csv`: a folder with files instead of servers.

use std::{
    fmt::Write as _,
    fs,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::json;
use tempfile::TempDir;

use crate::harness::CliOutput;

const BATCHES: &str = "batches.csv";
const ORDERS: &str = "orders.csv";
const ALLOCATIONS: &str = "allocations.csv";
/// For 100,000 orders, by a program that was built without optimisation.
const DONE_WITHIN: Duration = Duration::from_mins(1);

/// A folder with files in it.
struct Folder(TempDir);

impl Folder {
    fn with(files: &[(&str, &[u8])]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for (name, content) in files {
            folder.write(name, content);
        }
        folder
    }

    /// A folder with a batch of ten lamps and a batch of three vases.
    fn with_stock(orders: &str) -> Self {
        let batches: &[u8] = b"ref,sku,qty,eta\nb-1,LAMP,10,\nb-2,VASE,3,2031-01-01\n";
        Self::with(&[(BATCHES, batches), (ORDERS, orders.as_bytes())])
    }

    fn write(&self, name: &str, content: &[u8]) {
        fs::write(self.0.path().join(name), content).unwrap();
    }

    /// The content of the file of allocations, if it exists.
    fn allocations(&self) -> Option<String> {
        let file = self.0.path().join(ALLOCATIONS);
        file.exists().then(|| fs::read_to_string(file).unwrap())
    }

    fn run(&self) -> CliOutput {
        self.call(&["csv"])
    }

    /// Runs the program without the URLs of servers.
    fn call(&self, arguments: &[&str]) -> CliOutput {
        let mut program = Command::new(env!("CARGO_BIN_EXE_allocation"));
        program.args(arguments).arg(self.0.path()).env_remove("DATABASE_URL").env_remove("AMQP_URL");
        CliOutput::of(program.output().unwrap())
    }
}

/// A file of allocations with these rows.
fn file(rows: &[&str]) -> String {
    ["orderid,sku,qty,batchref"].iter().chain(rows).flat_map(|row| [*row, "\r\n"]).collect()
}

/// C1.
#[test]
fn order_lines_are_allocated_and_written_in_the_order_of_the_file() {
    let folder = Folder::with(&[
        (BATCHES, b"ref,sku,qty,eta\nb-sea,LAMP,100,2031-01-01\nb-house,LAMP,4,\nb-vase,VASE,9,2031-02-02\n"),
        (ORDERS, b"orderid,sku,qty\no-1,VASE,9\no-1,LAMP,3\no-2,LAMP,2\no-3,LAMP,1\n"),
    ]);
    let output = folder.run().exits(0);
    let expected =
        file(&["o-1,VASE,9,b-vase", "o-1,LAMP,3,b-house", "o-2,LAMP,2,b-sea", "o-3,LAMP,1,b-house"]);
    assert_eq!(folder.allocations(), Some(expected));
    assert_eq!(
        output.stdout(),
        "4 orders: 4 lines placed, 0 without stock, 0 rejected; 0 allocations kept\n"
    );
    assert_eq!(output.stderr(), "");
}

/// Empty columns and rows, a byte order mark, capital letters and blanks, as in a file that was edited by hand.
#[test]
fn files_are_read_as_spreadsheets_write_them() {
    let folder = Folder::with(&[
        (BATCHES, b"\xef\xbb\xbfRef,SKU, qty ,ETA,,\r\nb-1,LAMP,10,,,\r\n,,,,,\r\nb-2,VASE,3,2031-01-01,,\r\n,,,,,\r\n"),
        (ORDERS, b"OrderId,Sku,Qty,\r\no-1,LAMP,3,\r\n,,,\r\no-2,VASE,3\r\n,,,\r\n"),
    ]);
    let said = folder.run().exits(0);
    assert_eq!(folder.allocations(), Some(file(&["o-1,LAMP,3,b-1", "o-2,VASE,3,b-2"])));
    assert_eq!(said.stderr(), "");
}

/// C2.
#[test]
fn earlier_allocations_are_kept_and_reduce_the_available_quantity() {
    let folder = Folder::with(&[
        (BATCHES, b"ref,sku,qty,eta\nb-1,LAMP,7,\nb-2,LAMP,7,2031-01-01\n"),
        (ALLOCATIONS, b"orderid,sku,qty,batchref\no-old,LAMP,7,b-1\n"),
        (ORDERS, b"orderid,sku,qty\no-new,LAMP,7\n"),
    ]);
    let output = folder.run().exits(0);
    assert_eq!(folder.allocations(), Some(file(&["o-old,LAMP,7,b-1", "o-new,LAMP,7,b-2"])));
    assert!(output.stdout().contains("1 lines placed") && output.stdout().contains("1 allocations kept"));
}

#[test]
fn a_second_run_writes_the_same_bytes() {
    let orders = "orderid,sku,qty\n\"o, 1\",LAMP,8\no-2,LAMP,3\n\"o \"\"3\"\"\",VASE,3\no-4,LAMP,2\n";
    let folder = Folder::with_stock(orders);
    folder.run().exits(0);
    let first = folder.allocations();
    let rows = file(&["\"o, 1\",LAMP,8,b-1", "\"o \"\"3\"\"\",VASE,3,b-2", "o-4,LAMP,2,b-1"]);
    assert_eq!(first, Some(rows));
    for _ in 0..2 {
        let output = folder.run().exits(0);
        assert!(output.stdout().contains("0 lines placed, 1 without stock"), "{}", output.stdout());
        assert_eq!(folder.allocations(), first);
    }
}

/// A file with one invalid row, and its error.
const INVALID_ROWS: [(&str, &[u8], &str); 22] = [
    (BATCHES, b"ref,sku,qty,eta\n,LAMP,10,\n", "batches.csv, line 2: missing field `ref`"),
    (BATCHES, b"ref,sku,qty,eta\nb-1,,10,\n", "batches.csv, line 2: missing field `sku`"),
    (BATCHES, b"ref,sku,qty,eta\nb-1,LAMP,,\n", "batches.csv, line 2: missing field `qty`"),
    (BATCHES, b"ref,sku,qty,eta\nb-1,LAMP,-1,\n", "batches.csv, line 2: qty: must be a whole number from 0"),
    (BATCHES, b"ref,sku,qty,eta\n\nb-1,LAMP,ten,\n", "batches.csv, line 3: qty: must be a whole number"),
    (BATCHES, b"ref,sku,qty,eta\nb-1,LAMP,1,\nb-2,LAMP,1,soon\n", "batches.csv, line 3: eta: must be a date"),
    (BATCHES, b"ref,sku,qty,eta\nb-1,LAMP,10,2031-02-30\n", "batches.csv, line 2: eta: must be a date"),
    (BATCHES, b"ref,sku,qty,eta\nb-1,LAMP,10\n", "batches.csv, line 2: eta: the row has 3 fields"),
    (BATCHES, b"ref,sku,qty\nb-1,LAMP,10\n", "batches.csv, line 1: no column eta"),
    (
        BATCHES,
        b"ref,sku,qty,eta\nb-1,LAMP,9,\nb-1,LAMP,8,\n",
        "batches.csv, line 3: ref: an earlier row defines batch b-1",
    ),
    (ORDERS, b"orderid,sku,qty\no-1,LAMP,0\n", "orders.csv, line 2: qty: must be a whole number from 1"),
    (ORDERS, b"orderid,sku,qty\no-1,LAMP,1.5\n", "orders.csv, line 2: qty: must be a whole number from 1"),
    (ORDERS, b"orderid,sku,qty\no-1,LAMP,2147483648\n", "orders.csv, line 2: qty: must be a whole number"),
    (ORDERS, b"orderid,sku,qty\n,LAMP,1\n", "orders.csv, line 2: missing field `orderid`"),
    (ORDERS, b"orderid,sku,qty\no-1,L\xffMP,1\n", "orders.csv, line 2: sku: not UTF-8"),
    (
        ORDERS,
        b"orderid,sku,qty\no-1,LAMP,1,2\n",
        "orders.csv, line 2: \"2\": the first line names no column 4",
    ),
    (ORDERS, b"order,sku,qty\no-1,LAMP,1\n", "orders.csv, line 1: no column orderid"),
    (ORDERS, b"", "orders.csv, line 1: no column orderid"),
    (
        ALLOCATIONS,
        b"orderid,sku,qty,batchref\no-1,LAMP,1,b-9\n",
        "allocations.csv, line 2: batchref: no batch b-9",
    ),
    (
        ALLOCATIONS,
        b"orderid,sku,qty,batchref\no-1,VASE,1,b-1\n",
        "allocations.csv, line 2: batchref: no batch b-1",
    ),
    (
        ALLOCATIONS,
        b"orderid,sku,qty,batchref\no-1,LAMP,8,b-1\no-2,LAMP,3,b-1\n",
        "allocations.csv, line 3: qty: batch b-1 has 10, earlier rows allocate 8",
    ),
    (
        ALLOCATIONS,
        b"orderid,sku,qty,batchref\no-1,LAMP,1,b-1\no-1,LAMP,1,b-1\n",
        "allocations.csv, line 3: orderid: an earlier row allocates the line of order o-1 for LAMP",
    ),
];

#[test]
fn an_invalid_row_is_reported_and_nothing_is_written() {
    for (name, content, error) in INVALID_ROWS {
        let folder = Folder::with_stock("orderid,sku,qty\no-1,LAMP,3\n");
        let before = file(&["o-old,LAMP,2,b-1"]);
        folder.write(ALLOCATIONS, before.as_bytes());
        folder.write(name, content);
        let output = folder.run().exits(1);
        output.assert_error(error);
        output.assert_error("nothing was written");
        assert_eq!(output.stdout(), "");
        let unchanged = if name == ALLOCATIONS { content } else { before.as_bytes() };
        assert_eq!(folder.allocations().unwrap().as_bytes(), unchanged, "{error}");
    }
}

#[test]
fn all_invalid_rows_of_all_files_are_reported_together() {
    let folder = Folder::with(&[
        (BATCHES, b"ref,sku,qty,eta\nb-1,LAMP,x,\nb-2,LAMP,1,\nb-3,LAMP,1,y\n"),
        (ORDERS, b"orderid,sku,qty\no-1,LAMP,1\no-2,,1\n"),
    ]);
    let output = folder.run().exits(1);
    for named in
        ["batches.csv, line 2: qty", "batches.csv, line 4: eta", "orders.csv, line 3: missing field `sku`"]
    {
        output.assert_error(named);
    }
    assert_eq!(output.stderr().lines().count(), 4, "{}", output.stderr());
    assert_eq!(folder.allocations(), None);
}

#[test]
fn a_missing_file_or_folder_is_reported() {
    let orders: &[u8] = b"orderid,sku,qty\n";
    Folder::with(&[(ORDERS, orders)]).run().exits(1).assert_error(BATCHES);
    Folder::with(&[(BATCHES, b"ref,sku,qty,eta\n")]).run().exits(1).assert_error(ORDERS);
    let empty = Folder::with(&[]);
    let missing = empty.0.path().join("missing");
    let output = Command::new(env!("CARGO_BIN_EXE_allocation")).arg("csv").arg(&missing).output().unwrap();
    CliOutput::of(output).exits(1).assert_error(&missing.display().to_string());
}

#[test]
fn an_order_of_an_unknown_sku_is_reported_and_the_others_are_allocated() {
    let folder = Folder::with_stock("orderid,sku,qty\no-1,LAMP,3\no-2,NO-SUCH-SKU,1\no-3,VASE,1\n");
    for _ in 0..2 {
        let output = folder.run().exits(1);
        output.assert_error("orders.csv, line 3: Invalid sku NO-SUCH-SKU");
        assert!(output.stdout().contains("0 without stock, 1 rejected"), "{}", output.stdout());
        assert_eq!(folder.allocations(), Some(file(&["o-1,LAMP,3,b-1", "o-3,VASE,1,b-2"])));
    }
}

#[test]
fn a_line_without_stock_is_reported_and_is_no_error() {
    let folder = Folder::with_stock("orderid,sku,qty\no-1,LAMP,9\no-2,LAMP,2\no-3,LAMP,1\n");
    let output = folder.run().exits(0);
    assert!(output.stdout().contains("Out of stock for LAMP: 2 for order o-2\n"), "{}", output.stdout());
    assert_eq!(folder.allocations(), Some(file(&["o-1,LAMP,9,b-1", "o-3,LAMP,1,b-1"])));

    let report = folder.call(&["csv", "--json"]).exits(0).json();
    let waiting = json!([{ "orderid": "o-2", "sku": "LAMP", "qty": 2 }]);
    let expected = json!({ "orders": 3, "kept": 2, "placed": 0, "without_stock": waiting, "rejected": [] });
    assert_eq!(report, expected);
}

#[test]
fn a_repeated_order_is_one_line_and_another_quantity_is_rejected() {
    let folder = Folder::with_stock("orderid,sku,qty\no-1,LAMP,3\no-1,LAMP,3\no-1,VASE,1\no-1,LAMP,4\n");
    let output = folder.run().exits(1);
    output.assert_error("orders.csv, line 5: order o-1 already has a line of 3 LAMP; it cannot become 4");
    assert_eq!(folder.allocations(), Some(file(&["o-1,LAMP,3,b-1", "o-1,VASE,1,b-2"])));
}

#[test]
fn a_repeated_batch_is_one_batch() {
    let folder = Folder::with_stock("orderid,sku,qty\no-1,LAMP,6\no-2,LAMP,6\n");
    folder.write(BATCHES, b"ref,sku,qty,eta\nb-1,LAMP,10,\nb-1,LAMP,10,\n");
    let output = folder.run().exits(0);
    assert!(output.stdout().contains("1 lines placed, 1 without stock"), "{}", output.stdout());
    assert_eq!(folder.allocations(), Some(file(&["o-1,LAMP,6,b-1"])));
}

#[test]
fn line_ends_blanks_a_byte_order_mark_and_the_order_of_columns_do_not_matter() {
    let expected = file(&["o-1,LAMP,3,b-1", "o-2,VASE,2,b-2"]);
    let orders: [&[u8]; 5] = [
        b"orderid,sku,qty\no-1,LAMP,3\no-2,VASE,2\n",
        b"orderid,sku,qty\r\no-1,LAMP,3\r\no-2,VASE,2\r\n",
        b"\xef\xbb\xbforderid,sku,qty\r\no-1,LAMP,3\r\no-2,VASE,2",
        b"orderid, sku, qty\n\n o-1 , LAMP , 3 \n\no-2,VASE,2\n\n",
        b"qty,note,sku,orderid\n3,\"urgent, please\",LAMP,o-1\n\"2\",,\"VASE\",o-2\n",
    ];
    for orders in orders {
        let folder = Folder::with_stock("");
        folder.write(ORDERS, orders);
        folder.run().exits(0);
        assert_eq!(folder.allocations().as_ref(), Some(&expected), "{}", String::from_utf8_lossy(orders));
    }
}

#[test]
fn a_file_without_orders_is_no_error() {
    let folder = Folder::with_stock("orderid,sku,qty\n");
    folder.run().exits(0);
    assert_eq!(folder.allocations(), Some(file(&[])));
}

#[test]
fn a_hundred_thousand_orders_are_allocated_within_a_minute() {
    let (mut batches, mut orders) = ("ref,sku,qty,eta\n".to_owned(), "orderid,sku,qty\n".to_owned());
    for number in 0..1000 {
        let (sku, day) = (number % 100, 1 + number % 28);
        writeln!(batches, "b-{number},SKU-{sku},150,2031-01-{day:02}").unwrap();
    }
    for number in 0..100_000 {
        let (sku, qty) = (number % 100, 1 + number % 2);
        writeln!(orders, "o-{number},SKU-{sku},{qty}").unwrap();
    }
    let folder = Folder::with(&[(BATCHES, batches.as_bytes()), (ORDERS, orders.as_bytes())]);
    let begin = Instant::now();
    let report = folder.call(&["csv", "--json"]).exits(0).json();
    assert!(begin.elapsed() < DONE_WITHIN, "{:?}", begin.elapsed());
    let waiting = report["without_stock"].as_array().map_or(0, Vec::len);
    // Ten batches of 150 per SKU; every second SKU is ordered in twos, and 150 holds 75 of them.
    let (placed, without_stock) = (50 * 1000 + 50 * 750, 50 * 250);
    assert_eq!((&report["placed"], waiting), (&json!(placed), without_stock));
    let rows = folder.allocations().unwrap();
    assert_eq!(rows.lines().count(), 1 + placed);
}

/// The values stay as they are: a second run must read the same ones.
#[test]
fn a_warning_names_the_rows_that_a_spreadsheet_would_evaluate() {
    let folder =
        Folder::with_stock("orderid,sku,qty\no-1,LAMP,1\n=cmd|'/C calc'!A0,LAMP,1\n@SUM(1),LAMP,1\n");
    let output = folder.run().exits(0);
    for line in [3, 4] {
        output.assert_error(&format!("warning: allocations.csv, line {line}: a spreadsheet would evaluate"));
    }
    assert_eq!(output.stderr().matches("warning").count(), 2, "{}", output.stderr());
    assert!(folder.allocations().unwrap().contains("=cmd|'/C calc'!A0"));
}

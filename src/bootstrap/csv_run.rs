//! Runs the bus and the domain on the files of a folder.

use std::{collections::HashSet, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;

use crate::{
    adapters::{
        csv::{self, Row},
        memory::MemoryStore,
    },
    domain::Allocate,
    ports::{
        answered::MissingAnswers,
        observer::NoObserver,
        queue::{Message, QueueName},
        store::ReadModelState,
    },
    service::{
        backoff::RetryPolicy, batch_handler::BatchHandler as _, decode::Limits, message_bus::MessageBus,
        outcome::CommandOutcome, policy::FailurePolicy, received::ReceivedMessage,
    },
};

use super::{
    csv_rows::{
        ALLOCATION_COLUMNS, ALLOCATIONS, BATCH_COLUMNS, BATCHES, ORDER_COLUMNS, ORDERS, ParsedRows, error_at,
        json_of, parse_row, parse_rows, read,
    },
    csv_stock::{Allocation, build_stock},
};

/// Orders in one unit of work, and the step of the progress bar.
const BATCH_SIZE: usize = 250;
/// The length of a row is not limited.
const LIMITS: Limits = Limits { body_bytes: usize::MAX, header_bytes: 0 };

/// What became of a folder's orders.
#[derive(Debug, Default)]
pub struct CsvReport {
    /// Rows of `orders.csv`.
    pub orders: usize,
    /// Lines that were allocated before.
    pub kept: usize,
    /// Lines that were allocated now.
    pub placed: usize,
    /// Lines for which there is no stock: order, SKU, quantity.
    pub without_stock: Vec<(String, String, u32)>,
    /// Rows that a rule rejected, each with file, line and reason.
    pub rejected: Vec<String>,
    /// Written rows with a value that a spreadsheet would evaluate, each with file and line.
    pub formulas: Vec<String>,
}

/// Rows that are invalid, each with file and line; nothing was written.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct CsvErrors(pub Vec<String>);

/// A row of `orders.csv`, and the same as a message.
struct Order {
    line: Allocate,
    received: ReceivedMessage,
}

/// Allocates the lines of `orders.csv` to the batches of `batches.csv`, keeps the allocations of `allocations.csv`, and
/// replaces that file with all allocations. `progress` receives the number of handled orders and their total.
///
/// # Errors
/// [`CsvErrors`], or a file cannot be read or written. Nothing has changed in these cases.
pub async fn allocate_files(folder: &Path, progress: impl Fn(usize, usize)) -> anyhow::Result<CsvReport> {
    let files = CsvFiles {
        batches: read(folder, BATCHES, &BATCH_COLUMNS)?,
        orders: read(folder, ORDERS, &ORDER_COLUMNS)?,
        allocations: if folder.join(ALLOCATIONS).try_exists()? {
            read(folder, ALLOCATIONS, &ALLOCATION_COLUMNS)?
        } else {
            ParsedRows::default()
        },
    };
    let (report, allocations) = allocate(files, progress).await?;
    write(folder, &allocations)?;
    Ok(report)
}

/// The rows of all files.
pub(super) struct CsvFiles {
    pub(super) batches: ParsedRows,
    pub(super) orders: ParsedRows,
    pub(super) allocations: ParsedRows,
}

/// Returns the report, and all allocations.
pub(super) async fn allocate(
    files: CsvFiles,
    progress: impl Fn(usize, usize),
) -> anyhow::Result<(CsvReport, Vec<Allocation>)> {
    let mut errors = Vec::new();
    let batches = parse_rows(&mut errors, BATCHES, files.batches, parse_row);
    let kept = parse_rows(&mut errors, ALLOCATIONS, files.allocations, parse_row);
    let mut orders = parse_rows(&mut errors, ORDERS, files.orders, parse_order);
    let stock = build_stock(&mut errors, batches, &kept);
    if !errors.is_empty() {
        return Err(CsvErrors(errors).into());
    }
    let store = MemoryStore::holding(stock);
    let mut report = CsvReport { orders: orders.len(), kept: kept.len(), ..CsvReport::default() };
    handle(&store, &mut orders, &mut report.rejected, progress).await?;
    let placed = collect_results(&store, orders, &mut report).await;
    let written: Vec<_> = kept.into_iter().map(|(_, kept)| kept).chain(placed).collect();
    report.formulas = formulas(&written);
    Ok((report, written))
}

/// An order as a delivery from a queue.
fn parse_order(row: &Row) -> Result<Order, String> {
    let message = Message {
        kind: "allocate".into(),
        message_id: Some(format!("{ORDERS} {}", row.line)),
        body: json_of(row).to_string().into_bytes().into(),
        ..Message::default()
    };
    let line = parse_row::<Allocate>(row)?;
    Ok(Order { line, received: ReceivedMessage::read_awaited(QueueName::Orders, message, LIMITS) })
}

/// Handles the orders in units of work; those that a rule rejects are appended to `rejected`.
async fn handle(
    store: &MemoryStore,
    orders: &mut [(u64, Order)],
    rejected: &mut Vec<String>,
    progress: impl Fn(usize, usize),
) -> anyhow::Result<()> {
    let policy = FailurePolicy {
        handler_timeout: Duration::from_secs(30),
        retry: RetryPolicy::default(),
        host: "files".into(),
    };
    let bus = MessageBus::new(Arc::new(store.clone()), policy, Arc::new(NoObserver));
    let (mut handled, all) = (0, orders.len());
    for batch in orders.chunks_mut(BATCH_SIZE) {
        let mut received: Vec<_> = batch.iter_mut().map(|(_, order)| &mut order.received).collect();
        bus.handle(QueueName::Orders, &mut received).await?;
        for (line, order) in batch.iter_mut() {
            match order.received.take_outcome().ok_or(MissingAnswers::NONE)? {
                CommandOutcome::Handled | CommandOutcome::Duplicate => {}
                CommandOutcome::Reported(failure) | CommandOutcome::Recorded(failure, _) => {
                    rejected.push(error_at(ORDERS, *line, failure));
                }
                CommandOutcome::Unknown => anyhow::bail!(error_at(ORDERS, *line, "the outcome is unknown")),
            }
        }
        handled += batch.len();
        progress(handled, all);
    }
    Ok(())
}

/// The new allocations, in the order of the orders; lines without stock go into the report.
async fn collect_results(
    store: &MemoryStore,
    orders: Vec<(u64, Order)>,
    report: &mut CsvReport,
) -> Vec<Allocation> {
    let state = store.state().await;
    let (mut placed, mut seen) = (Vec::new(), HashSet::new());
    for (_, Order { line: Allocate { orderid, sku, .. }, .. }) in orders {
        let key = (orderid, sku);
        match state.view.get(&key).filter(|_| seen.insert(key.clone())) {
            Some(ReadModelState::Allocated(qty, batchref)) => {
                let ((orderid, sku), batchref) = (key, batchref.clone());
                placed.push(Allocation { orderid, sku, qty: *qty, batchref });
            }
            Some(ReadModelState::Backordered(qty)) => {
                report.without_stock.push((key.0.to_string(), key.1.to_string(), qty.get()));
            }
            Some(ReadModelState::Removed) | None => {}
        }
    }
    report.placed = placed.len();
    placed
}

/// The rows with a value that begins like a formula. They are written as they are: another run must read the same values.
fn formulas(written: &[Allocation]) -> Vec<String> {
    let is_formula = |value: &str| value.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let rows = written.iter().enumerate().filter(|(_, Allocation { orderid, sku, batchref, .. })| {
        [orderid.as_str(), sku.as_str(), batchref.as_str()].into_iter().any(is_formula)
    });
    // The first line has the names of the columns.
    let line = |(index, _)| {
        error_at(ALLOCATIONS, index as u64 + 2, "a spreadsheet would evaluate a value as a formula")
    };
    rows.map(line).collect()
}

fn write(folder: &Path, allocations: &[Allocation]) -> anyhow::Result<()> {
    let file = folder.join(ALLOCATIONS);
    with_columns(allocations, |rows| csv::replace(&file, &ALLOCATION_COLUMNS, rows))
        .with_context(|| format!("cannot write {}", file.display()))
}

/// Passes the rows of `allocations.csv` to a function.
pub(super) fn with_columns<T>(
    allocations: &[Allocation],
    write: impl FnOnce(&mut dyn Iterator<Item = [&str; 4]>) -> T,
) -> T {
    let allocations: Vec<_> =
        allocations.iter().map(|allocation| (allocation, allocation.qty.to_string())).collect();
    let mut rows = allocations.iter().map(|(Allocation { orderid, sku, batchref, .. }, qty)| {
        [orderid.as_str(), sku.as_str(), qty.as_str(), batchref.as_str()]
    });
    write(&mut rows)
}

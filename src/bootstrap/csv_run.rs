//! The same bus and domain, over the files of a folder.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    adapters::{
        csv::{self, Row, RowError},
        memory::{MemoryStore, RecordingNotifier, SeedProduct},
    },
    domain::{Allocate, Batch, BatchRef, CreateBatch, Line, OrderId, Quantity, Sku},
    ports::{
        queue::{Message, QueueName},
        store::ReadModelState,
    },
    service::{
        backoff::RetryPolicy,
        decode::Limits,
        message_bus::{CommandOutcome, FailurePolicy, MessageBus},
        received::ReceivedMessage,
    },
};

const BATCHES: &str = "batches.csv";
const ORDERS: &str = "orders.csv";
const ALLOCATIONS: &str = "allocations.csv";
const ALLOCATION_COLUMNS: [&str; 4] = ["orderid", "sku", "qty", "batchref"];
/// Orders in one unit of work; the progress bar moves after each.
const AT_ONCE: usize = 250;

/// What became of a folder's orders.
#[derive(Debug, Default)]
pub struct CsvReport {
    /// Rows of `orders.csv`.
    pub orders: usize,
    /// Lines that sat in a batch before.
    pub kept: usize,
    /// Lines that sit in one now.
    pub placed: usize,
    /// Lines for which there is no stock: order, SKU, quantity.
    pub without_stock: Vec<(String, String, u32)>,
    /// Rows that a rule said no to, each with its place and the rule's words.
    pub rejected: Vec<String>,
}

/// Rows that cannot be read, each with its place; nothing was written.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct CsvErrors(pub Vec<String>);

/// A line of `allocations.csv`.
#[derive(Deserialize)]
struct Allocation {
    orderid: OrderId,
    sku: Sku,
    qty: Quantity,
    batchref: BatchRef,
}

/// A line of `orders.csv`, and the message it would have been.
struct Order {
    line: Allocate,
    received: ReceivedMessage,
}

/// Allocates what `orders.csv` asks for from what `batches.csv` has, keeps what `allocations.csv` says, and writes that
/// anew. `progress` is told how many orders are done, and of how many.
///
/// # Errors
/// [`CsvErrors`], or a file cannot be read or written. Nothing has changed then.
pub async fn allocate_files(folder: &Path, progress: impl Fn(usize, usize)) -> anyhow::Result<CsvReport> {
    let batches = read(folder, BATCHES, &["ref", "sku", "qty", "eta"])?;
    let orders = read(folder, ORDERS, &["orderid", "sku", "qty"])?;
    let allocations = if folder.join(ALLOCATIONS).try_exists()? {
        read(folder, ALLOCATIONS, &ALLOCATION_COLUMNS)?
    } else {
        ParsedRows::default()
    };
    let mut bad = Vec::new();
    let batches = understood(&mut bad, BATCHES, batches, parsed);
    let kept = understood(&mut bad, ALLOCATIONS, allocations, parsed);
    let orders = understood(&mut bad, ORDERS, orders, order);
    let held = held(&mut bad, batches, &kept);
    if !bad.is_empty() {
        return Err(CsvErrors(bad).into());
    }
    let store = MemoryStore::holding(held);
    let mut allocated = CsvReport { orders: orders.len(), kept: kept.len(), ..CsvReport::default() };
    handle(&store, &orders, &mut allocated.rejected, progress).await?;
    let placed = outcome(&store, orders, &mut allocated).await;
    let lines: Vec<_> = kept.iter().map(|(_, kept)| kept).chain(&placed).collect();
    let quantities: Vec<_> = lines.iter().map(|line| line.qty.to_string()).collect();
    let rows = lines
        .iter()
        .zip(&quantities)
        .map(|(line, qty)| [line.orderid.as_str(), line.sku.as_str(), qty.as_str(), line.batchref.as_str()]);
    let file = folder.join(ALLOCATIONS);
    csv::replace(&file, &ALLOCATION_COLUMNS, rows)
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(allocated)
}

/// Rows, and those that cannot be read.
type ParsedRows = (Vec<Row>, Vec<RowError>);

fn read(folder: &Path, name: &str, columns: &[&str]) -> anyhow::Result<ParsedRows> {
    let file: PathBuf = folder.join(name);
    csv::read(&file, columns).with_context(|| format!("cannot read {}", file.display()))
}

/// What the rows say; what cannot be understood is noted with its place.
fn understood<T>(
    bad: &mut Vec<String>,
    file: &str,
    (rows, unreadable): ParsedRows,
    understand: impl Fn(&Row) -> Result<T, String>,
) -> Vec<(u64, T)> {
    let mut not_understood: Vec<_> = unreadable.into_iter().map(|row| (row.line, row.error)).collect();
    let mut understood = Vec::new();
    for row in rows {
        match understand(&row) {
            Ok(what) => understood.push((row.line, what)),
            Err(error) => not_understood.push((row.line, error)),
        }
    }
    not_understood.sort_by_key(|(line, _)| *line);
    bad.extend(not_understood.into_iter().map(|(line, error)| at(file, line, error)));
    understood
}

fn at(file: &str, line: u64, error: impl std::fmt::Display) -> String {
    format!("{file}, line {line}: {error}")
}

/// Reads a row by the rules for messages: there is one set of them.
fn parsed<T: DeserializeOwned>(row: &Row) -> Result<T, String> {
    serde_path_to_error::deserialize(fields(row)).map_err(|error| match error.path().to_string().as_str() {
        "." => error.inner().to_string(),
        field => format!("{field}: {}", error.inner()),
    })
}

fn fields(row: &Row) -> Value {
    let fields = row.fields.iter().map(|(name, text)| (name.clone(), Value::from(text.as_str())));
    Value::Object(fields.collect())
}

/// An order as it would have come from a queue.
fn order(row: &Row) -> Result<Order, String> {
    let message = Message {
        kind: "allocate".into(),
        message_id: Some(format!("{ORDERS} {}", row.line)),
        body: fields(row).to_string().into_bytes(),
        ..Message::default()
    };
    let line = parsed::<Allocate>(row)?;
    Ok(Order {
        line,
        received: ReceivedMessage::read_awaited(message, Limits { body_bytes: usize::MAX, header_bytes: 0 }),
    })
}

/// The stock as it stands before the orders: every batch with what is allocated from it.
fn held(
    bad: &mut Vec<String>,
    batches: Vec<(u64, CreateBatch)>,
    allocations: &[(u64, Allocation)],
) -> Vec<SeedProduct> {
    let mut stock = StockBuilder::default();
    for (line, batch) in batches {
        if let Err(error) = stock.add(&batch) {
            bad.push(at(BATCHES, line, error));
        }
    }
    for (line, allocation) in allocations {
        if let Err(error) = stock.allocate(allocation) {
            bad.push(at(ALLOCATIONS, *line, error));
        }
    }
    stock.held()
}

/// Batches and lines, checked while they are read.
#[derive(Default)]
struct StockBuilder {
    batches: BTreeMap<BatchRef, (CreateBatch, u32)>,
    lines: BTreeMap<Sku, HashMap<OrderId, Line>>,
}

impl StockBuilder {
    fn add(&mut self, batch: &CreateBatch) -> Result<(), String> {
        let known = self.batches.entry(batch.reference.clone()).or_insert_with(|| (batch.clone(), 0));
        if known.0 == *batch {
            Ok(())
        } else {
            Err(format!("ref: batch {} stands above with other content", batch.reference))
        }
    }

    fn allocate(&mut self, allocation: &Allocation) -> Result<(), String> {
        let Allocation { orderid, sku, qty, batchref } = allocation;
        let (batch, allocated) = self
            .batches
            .get_mut(batchref)
            .filter(|(batch, _)| batch.sku == *sku)
            .ok_or_else(|| format!("batchref: no batch {batchref} of {sku} in {BATCHES}"))?;
        if batch.qty.get() - *allocated < qty.get() {
            return Err(format!(
                "qty: batch {batchref} holds {}, and {allocated} are allocated above",
                batch.qty
            ));
        }
        let lines = self.lines.entry(sku.clone()).or_default();
        let position = i64::try_from(lines.len()).unwrap_or(i64::MAX - 1) + 1;
        let line = Line { quantity: *qty, position, batch: Some(batchref.clone()) };
        if lines.insert(orderid.clone(), line).is_some() {
            return Err(format!("orderid: the line of order {orderid} for {sku} stands above, too"));
        }
        *allocated += qty.get();
        Ok(())
    }

    fn held(mut self) -> Vec<SeedProduct> {
        let mut of_sku: BTreeMap<Sku, Vec<Batch>> = BTreeMap::new();
        for (batch, allocated) in self.batches.into_values() {
            let (ordered, sku) = (batch.qty.get(), batch.sku);
            let restored = Batch::from_stored(batch.reference, batch.eta, ordered, ordered, allocated, None);
            of_sku.entry(sku).or_default().push(restored);
        }
        let held = of_sku.into_iter().map(|(sku, batches)| {
            let lines = self.lines.remove(&sku).unwrap_or_default();
            SeedProduct { sku, batches, lines }
        });
        held.collect()
    }
}

/// Has the orders handled, many at a time; what a rule said no to is noted with its place.
async fn handle(
    store: &MemoryStore,
    orders: &[(u64, Order)],
    rejected: &mut Vec<String>,
    progress: impl Fn(usize, usize),
) -> anyhow::Result<()> {
    let policy = FailurePolicy {
        handler_timeout: Duration::from_secs(30),
        retry: RetryPolicy::default(),
        host: "files".into(),
    };
    let bus = MessageBus::new(Arc::new(store.clone()), Arc::new(RecordingNotifier::default()), policy);
    let mut done = 0;
    for part in orders.chunks(AT_ONCE) {
        let received: Vec<_> = part.iter().map(|(_, order)| order.received.clone()).collect();
        let outcomes = bus.handle(QueueName::Orders, &received).await?;
        for ((line, _), outcome) in part.iter().zip(outcomes) {
            if let CommandOutcome::Reported(failure) | CommandOutcome::Recorded(failure, _) = outcome {
                rejected.push(at(ORDERS, *line, failure));
            }
        }
        done += part.len();
        progress(done, orders.len());
    }
    Ok(())
}

/// What the orders came to, in their order.
async fn outcome(
    store: &MemoryStore,
    orders: Vec<(u64, Order)>,
    allocated: &mut CsvReport,
) -> Vec<Allocation> {
    let kept = store.state().await;
    let (mut placed, mut seen) = (Vec::new(), HashSet::new());
    for (_, Order { line: Allocate { orderid, sku, .. }, .. }) in orders {
        let key = (orderid, sku);
        match kept.view.get(&key).filter(|_| seen.insert(key.clone())) {
            Some(ReadModelState::Allocated(qty, batchref)) => {
                let ((orderid, sku), batchref) = (key, batchref.clone());
                placed.push(Allocation { orderid, sku, qty: *qty, batchref });
            }
            Some(ReadModelState::Backordered(qty)) => {
                allocated.without_stock.push((key.0.to_string(), key.1.to_string(), qty.get()));
            }
            Some(ReadModelState::Removed) | None => {}
        }
    }
    allocated.placed = placed.len();
    placed
}

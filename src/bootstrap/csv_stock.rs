//! The stock before the orders of a folder are handled: its batches, and the allocations that exist already.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

use crate::{
    adapters::memory::SeedProduct,
    domain::{Batch, BatchRef, CreateBatch, Line, OrderId, Quantity, Sku},
};

use super::csv_rows::{ALLOCATIONS, BATCHES, error_at};

/// A row of `allocations.csv`.
#[derive(Deserialize)]
pub(super) struct Allocation {
    pub(super) orderid: OrderId,
    pub(super) sku: Sku,
    pub(super) qty: Quantity,
    pub(super) batchref: BatchRef,
}

/// Every batch with the lines that are allocated to it. What contradicts an earlier row is appended to `errors`.
pub(super) fn build_stock(
    errors: &mut Vec<String>,
    batches: Vec<(u64, CreateBatch)>,
    allocations: &[(u64, Allocation)],
) -> Vec<SeedProduct> {
    let mut stock = StockBuilder::default();
    for (line, batch) in batches {
        if let Err(error) = stock.add(&batch) {
            errors.push(error_at(BATCHES, line, error));
        }
    }
    for (line, allocation) in allocations {
        if let Err(error) = stock.allocate(allocation) {
            errors.push(error_at(ALLOCATIONS, *line, error));
        }
    }
    stock.build()
}

/// Batches with their allocated quantities, and lines.
#[derive(Default)]
struct StockBuilder {
    batches: BTreeMap<BatchRef, (CreateBatch, u32)>,
    lines: BTreeMap<Sku, HashMap<OrderId, Line>>,
}

impl StockBuilder {
    fn add(&mut self, batch: &CreateBatch) -> Result<(), String> {
        let (known, _) = self.batches.entry(batch.reference.clone()).or_insert_with(|| (batch.clone(), 0));
        if known == batch {
            Ok(())
        } else {
            Err(format!("ref: an earlier row defines batch {} with other content", batch.reference))
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
                "qty: batch {batchref} has {}, earlier rows allocate {allocated}",
                batch.qty
            ));
        }
        let lines = self.lines.entry(sku.clone()).or_default();
        let position = i64::try_from(lines.len()).unwrap_or(i64::MAX - 1) + 1;
        let line = Line { quantity: *qty, position, batch: Some(batchref.clone()) };
        if lines.insert(orderid.clone(), line).is_some() {
            return Err(format!("orderid: an earlier row allocates the line of order {orderid} for {sku}"));
        }
        *allocated += qty.get();
        Ok(())
    }

    fn build(mut self) -> Vec<SeedProduct> {
        let mut batches_of: BTreeMap<Sku, Vec<Batch>> = BTreeMap::new();
        for (batch, allocated) in self.batches.into_values() {
            let (purchased, sku) = (batch.qty.get(), batch.sku);
            let batch = Batch::from_stored(batch.reference, batch.eta, purchased, purchased, allocated, None);
            batches_of.entry(sku).or_default().push(batch);
        }
        let products = batches_of.into_iter().map(|(sku, batches)| {
            let lines = self.lines.remove(&sku).unwrap_or_default();
            SeedProduct { sku, batches, lines }
        });
        products.collect()
    }
}

//! The naive model: it keeps all batches and lines, and searches all of them for every command.

use std::collections::BTreeMap;

use super::{ModelCommand, SKUS};

/// The state of the model.
#[derive(Default)]
pub(super) struct Model {
    batches: BTreeMap<u8, ModelBatch>,
    /// In the order of their first allocation command.
    lines: Vec<ModelLine>,
    pub(super) events: BTreeMap<usize, Vec<String>>,
}

#[derive(Clone, Copy)]
struct ModelBatch {
    sku: usize,
    ordered: u32,
    purchased: u32,
    eta: Option<u8>,
    revision: Option<i64>,
}

#[derive(Clone)]
struct ModelLine {
    order: u8,
    sku: usize,
    qty: u32,
    batch: Option<u8>,
}

impl Model {
    pub(super) fn available(&self, batch: u8) -> u32 {
        let allocated: u32 =
            self.lines.iter().filter(|line| line.batch == Some(batch)).map(|line| line.qty).sum();
        self.batches[&batch].purchased - allocated
    }

    fn allocate_line(&mut self, position: usize) -> bool {
        let ModelLine { order, sku, qty, .. } = self.lines[position].clone();
        let fits = |batch: &&u8| self.batches[*batch].sku == sku && self.available(**batch) >= qty;
        let best =
            self.batches.keys().filter(fits).min_by_key(|batch| (self.batches[*batch].eta, **batch)).copied();
        let Some(best) = best else { return false };
        self.lines[position].batch = Some(best);
        self.emit(sku, format!("allocated o{order} {qty} b{best}"));
        true
    }

    fn allocate_backorders(&mut self, sku: usize) {
        for position in 0..self.lines.len() {
            if self.lines[position].sku == sku && self.lines[position].batch.is_none() {
                self.allocate_line(position);
            }
        }
    }

    fn emit(&mut self, sku: usize, event: String) {
        self.events.entry(sku).or_default().push(event);
    }

    fn is_known(&self, sku: usize) -> bool {
        self.batches.values().any(|batch| batch.sku == sku)
    }

    /// Handles a command; false if it is rejected.
    pub(super) fn handle(&mut self, command: &ModelCommand) -> bool {
        match *command {
            ModelCommand::Create { batch, sku, qty, eta } => self.create(batch, sku, qty, eta),
            ModelCommand::Allocate { order, sku, qty } => self.allocate(order, sku, qty),
            ModelCommand::Deallocate { order, sku } => self.deallocate(order, sku),
            ModelCommand::Change { batch, qty, revision } => self.change(batch, qty, revision),
        }
    }

    fn create(&mut self, batch: u8, sku: usize, qty: u32, eta: Option<u8>) -> bool {
        if let Some(known) = self.batches.get(&batch) {
            return known.sku == sku && known.ordered == qty && known.eta == eta;
        }
        self.batches.insert(batch, ModelBatch { sku, ordered: qty, purchased: qty, eta, revision: None });
        self.allocate_backorders(sku);
        true
    }

    fn allocate(&mut self, order: u8, sku: usize, qty: u32) -> bool {
        if !self.is_known(sku) {
            return false;
        }
        if let Some(line) = self.lines.iter().find(|line| line.order == order && line.sku == sku) {
            return line.qty == qty;
        }
        self.lines.push(ModelLine { order, sku, qty, batch: None });
        if !self.allocate_line(self.lines.len() - 1) {
            self.emit(sku, format!("out_of_stock o{order} {qty}"));
        }
        true
    }

    fn deallocate(&mut self, order: u8, sku: usize) -> bool {
        if !self.is_known(sku) {
            return false;
        }
        if let Some(position) = self.lines.iter().position(|line| line.order == order && line.sku == sku) {
            let line = self.lines.remove(position);
            if let Some(batch) = line.batch {
                self.emit(sku, format!("deallocated o{order} {} b{batch}", line.qty));
                self.allocate_backorders(sku);
            }
        }
        true
    }

    fn change(&mut self, batch: u8, qty: u32, revision: Option<i64>) -> bool {
        let Some(known) = self.batches.get(&batch).copied() else { return false };
        if matches!((revision, known.revision), (Some(new), Some(last)) if new <= last) {
            return true;
        }
        let mut allocated = known.purchased - self.available(batch);
        let mut displaced = Vec::new();
        for position in (0..self.lines.len()).rev() {
            if allocated > qty && self.lines[position].batch == Some(batch) {
                let ModelLine { order, qty, .. } = self.lines[position];
                self.lines[position].batch = None;
                self.emit(known.sku, format!("deallocated o{order} {qty} b{batch}"));
                displaced.push(position);
                allocated -= qty;
            }
        }
        let revision = revision.or(known.revision);
        self.batches.insert(batch, ModelBatch { purchased: qty, revision, ..known });
        self.allocate_backorders(known.sku);
        for position in displaced {
            if let ModelLine { order, qty, batch: None, .. } = self.lines[position] {
                self.emit(known.sku, format!("out_of_stock o{order} {qty}"));
            }
        }
        true
    }

    pub(super) fn view(&self) -> Vec<(String, &'static str, u32, Option<String>)> {
        let row = |line: &ModelLine| {
            (
                format!("o{}", line.order),
                SKUS[line.sku],
                line.qty,
                line.batch.map(|batch| format!("b{batch}")),
            )
        };
        let mut rows: Vec<_> = self.lines.iter().map(row).collect();
        rows.sort();
        rows
    }
}

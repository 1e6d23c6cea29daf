//! The state of a product.
//!
//! A product in memory contains only what the current commands need: the batches that are named or have available stock,
//! the lines that are named, and of the other lines as many as the stock can reach. The remaining state must be attached
//! before it is needed ([`Product::attach_batch`], [`Product::attach_line`]); each rule states what it needs.

use std::collections::HashMap;

use crate::domain::{
    batch::Batch,
    event::{Event, RecordedEvent},
    values::{BatchRef, OrderId, Sku},
};

use super::{
    changes::{DirtyFields, ProductChanges},
    line::Line,
};

/// The batches and lines of one SKU: the consistency boundary. A transaction that changes any of them locks all of them.
///
/// Invariants: a batch never has more allocated than purchased; a line is never in two batches; between two commands no
/// backordered line fits into any batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Product {
    pub(super) sku: Sku,
    version: i64,
    sequence: i64,
    pub(super) last_position: i64,
    /// Units of all backorders, attached or not.
    pub(super) backordered: u64,
    /// In the order of allocation.
    pub(super) batches: Vec<Batch>,
    pub(super) lines: HashMap<OrderId, Line>,
    events: Vec<RecordedEvent>,
    pub(super) dirty: DirtyFields,
    /// Whether stock was freed and has not been offered to the backorders yet.
    pub(super) stock_freed: bool,
}

impl Product {
    /// A product that is not stored: no batches, no lines.
    #[must_use]
    pub fn new(sku: Sku) -> Self {
        Self::from_stored(sku, 0, 0, 0, 0)
    }

    /// A stored product; its batches and lines are to be attached.
    ///
    /// `version` is the number of its changes, `sequence` the number of its published events, `last_position` the number
    /// of lines ever requested, and `backordered` the units of its backorders.
    #[must_use]
    pub fn from_stored(sku: Sku, version: i64, sequence: i64, last_position: i64, backordered: u64) -> Self {
        Self {
            sku,
            version,
            sequence,
            last_position,
            backordered,
            batches: Vec::new(),
            lines: HashMap::new(),
            events: Vec::new(),
            dirty: DirtyFields::default(),
            stock_freed: false,
        }
    }

    /// Its identity.
    #[must_use]
    pub fn sku(&self) -> &Sku {
        &self.sku
    }

    /// The version it was loaded with; 0 if it is not stored.
    #[must_use]
    pub fn version(&self) -> i64 {
        self.version
    }

    /// The sequence of its last published event.
    #[must_use]
    pub fn sequence(&self) -> i64 {
        self.sequence
    }

    /// The position of the line that was requested last.
    #[must_use]
    pub fn last_position(&self) -> i64 {
        self.last_position
    }

    /// The units of all backorders, including those of lines that are not attached.
    #[must_use]
    pub fn backordered(&self) -> u64 {
        self.backordered
    }

    /// The attached batches, in the order of allocation.
    #[must_use]
    pub fn batches(&self) -> &[Batch] {
        &self.batches
    }

    /// An attached batch.
    #[must_use]
    pub fn batch(&self, reference: &BatchRef) -> Option<&Batch> {
        self.batches.iter().find(|batch| batch.reference == *reference)
    }

    /// The attached lines, in no order.
    pub fn lines(&self) -> impl Iterator<Item = (&OrderId, &Line)> {
        self.lines.iter()
    }

    /// An attached line.
    #[must_use]
    pub fn line(&self, orderid: &OrderId) -> Option<&Line> {
        self.lines.get(orderid)
    }

    /// Adds a stored batch, unless it is attached already: the state in memory is newer.
    pub fn attach_batch(&mut self, batch: Batch) {
        if self.batch(&batch.reference).is_none() {
            self.insert(batch);
        }
    }

    /// Adds a stored line, unless it is attached already or was removed: the state in memory is newer.
    pub fn attach_line(&mut self, orderid: OrderId, line: Line) {
        if !self.dirty.removed_lines().contains(&orderid) {
            self.lines.entry(orderid).or_insert(line);
        }
    }

    /// The lines whose state is known in memory: those attached, and those removed.
    pub fn known_lines(&self) -> impl Iterator<Item = &OrderId> {
        let removed = self.dirty.removed_lines().iter();
        self.lines.keys().chain(removed.filter(|orderid| !self.lines.contains_key(*orderid)))
    }

    /// Whether anything has changed since it was loaded.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.dirty.any()
    }

    /// The changes since it was loaded.
    #[must_use]
    pub fn changes(&self) -> ProductChanges<'_> {
        self.dirty.changes(&self.batches, &self.lines)
    }

    /// The events since the last call, in the order in which they occurred.
    pub fn take_events(&mut self) -> Vec<RecordedEvent> {
        std::mem::take(&mut self.events)
    }

    pub(super) fn insert(&mut self, batch: Batch) {
        let index = self.batches.partition_point(|other| other.allocation_order() < batch.allocation_order());
        self.batches.insert(index, batch);
    }

    pub(super) fn record(&mut self, event: Event) {
        let sequence = event.public_name().map(|_| {
            self.sequence += 1;
            self.sequence
        });
        self.events.push(RecordedEvent { sequence, event });
    }
}

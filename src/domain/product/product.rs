//! The state of a product.
//!
//! A product in memory contains only what the current commands need: the batches that are named, the first ones with
//! available stock, the lines that are named, and of the other lines as many as freed stock can reach. The remaining state
//! must be attached before it is needed ([`Product::attach_batch`], [`Product::attach_found`], [`Product::attach_line`]);
//! each rule states what it needs.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::{
    batch::Batch,
    event::{Event, RecordedEvent},
    values::{BatchRef, OrderId, Quantity, Sku},
};

use super::{
    batches::{BatchRank, BatchSearch, Batches},
    changes::{DirtyFields, ProductChanges},
    line::Line,
    lines::{LineRank, Lines},
};

/// The number of batches that a search finds at most doubles so many times.
const MAX_DOUBLINGS: u32 = 5;

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
    pub(super) batches: Batches,
    /// For a quantity: the last stored batch up to which all that have so much available are attached; `None` if all are.
    searched: BTreeMap<u32, Option<BatchRank>>,
    searches: u32,
    pub(super) lines: Lines,
    events: Vec<RecordedEvent>,
    pub(super) dirty: DirtyFields,
    pub(super) offer: Offer,
}

/// What has not been offered yet: the stock that the last command freed, and the lines that it removed from their batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Offer {
    /// Batches whose stock was freed. No other batch has room for a line that waited before.
    pub(super) batches: BTreeSet<BatchRank>,
    /// Lines that were removed from their batch. They may fit into any batch.
    pub(super) lines: BTreeSet<LineRank>,
    /// The last line that was considered.
    pub(super) considered: Option<LineRank>,
}

impl Product {
    /// A product that is not stored: no batches, no lines.
    #[must_use]
    pub fn new(sku: Sku) -> Self {
        Self::from_stored(sku, 0, 0, 0, 0)
    }

    /// A stored product; all its batches and lines are to be attached, or those that were found ([`Self::attach_found`]).
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
            batches: Batches::default(),
            searched: BTreeMap::from([(BatchSearch::FIRST.quantity, None)]),
            searches: 0,
            lines: Lines::default(),
            events: Vec::new(),
            dirty: DirtyFields::default(),
            offer: Offer::default(),
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
    pub fn batches(&self) -> &Batches {
        &self.batches
    }

    /// An attached batch.
    #[must_use]
    pub fn batch(&self, reference: &BatchRef) -> Option<&Batch> {
        self.batches.get(reference)
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
            self.batches.insert(batch);
        }
    }

    /// Adds the stored batches that a search found.
    pub fn attach_found(&mut self, search: &BatchSearch, found: Vec<Batch>) {
        let last = found.last().filter(|_| found.len() >= search.at_most).map(BatchRank::of);
        for batch in found {
            self.attach_batch(batch);
        }
        self.searched.insert(search.quantity, last);
        self.searches += 1;
    }

    /// The search that must be done before the first batch that a line of `quantity` fits into is known; `None` if it is.
    #[must_use]
    pub fn missing_search(&self, quantity: Quantity) -> Option<BatchSearch> {
        // What was searched for a smaller quantity is known for this one, too.
        let mut after = None;
        for (_, last) in self.searched.range(..=quantity.get()) {
            after = after.max(Some(last.as_ref()?));
        }
        let after = after?;
        if self.batches.first_fit(quantity).is_some_and(|batch| BatchRank::of(batch) <= *after) {
            return None;
        }
        let at_most = BatchSearch::FIRST.at_most << self.searches.min(MAX_DOUBLINGS);
        Some(BatchSearch { quantity: quantity.get(), after: Some(after.clone()), at_most })
    }

    /// Adds a stored line, unless it is attached already or was removed: the state in memory is newer.
    pub fn attach_line(&mut self, orderid: OrderId, line: Line) {
        if !self.dirty.removed_lines().contains(&orderid) {
            self.lines.insert(orderid, line);
        }
    }

    /// The lines whose state is known in memory: those attached, and those removed.
    pub fn known_lines(&self) -> impl Iterator<Item = &OrderId> {
        let removed = self.dirty.removed_lines().iter();
        let attached = self.lines.iter().map(|(orderid, _)| orderid);
        attached.chain(removed.filter(|orderid| self.lines.get(orderid).is_none()))
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

    pub(super) fn record(&mut self, event: Event) {
        let sequence = event.public_name().map(|_| {
            self.sequence += 1;
            self.sequence
        });
        self.events.push(RecordedEvent { sequence, event });
    }
}

//! Tracks what differs between a product in memory and the store.

use std::collections::BTreeSet;

use crate::domain::{
    batch::Batch,
    values::{BatchRef, OrderId},
};

use super::{batches::Batches, line::Line, lines::Lines};

/// The changes of a product since it was loaded, for a store to write.
#[derive(Debug, Default)]
pub struct ProductChanges<'a> {
    /// Batches that are not stored yet.
    pub new_batches: Vec<&'a Batch>,
    /// Stored batches with other quantities.
    pub changed_batches: Vec<&'a Batch>,
    /// Stored lines that were removed. A new line may have the same order id.
    pub removed_lines: Vec<&'a OrderId>,
    /// Lines that are not stored yet.
    pub new_lines: Vec<(&'a OrderId, &'a Line)>,
    /// Stored lines whose batch changed.
    pub moved_lines: Vec<(&'a OrderId, &'a Line)>,
}

/// The keys of everything that differs from the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DirtyFields {
    any: bool,
    new_batches: BTreeSet<BatchRef>,
    batches: BTreeSet<BatchRef>,
    new_lines: BTreeSet<OrderId>,
    moved_lines: BTreeSet<OrderId>,
    removed_lines: BTreeSet<OrderId>,
}

impl DirtyFields {
    pub(super) fn any(&self) -> bool {
        self.any
    }

    /// Stored lines that were removed.
    pub(super) fn removed_lines(&self) -> &BTreeSet<OrderId> {
        &self.removed_lines
    }

    pub(super) fn add_batch(&mut self, reference: &BatchRef) {
        self.any = true;
        self.new_batches.insert(reference.clone());
    }

    pub(super) fn change_batch(&mut self, reference: &BatchRef) {
        self.any = true;
        if !self.new_batches.contains(reference) {
            self.batches.insert(reference.clone());
        }
    }

    pub(super) fn add_line(&mut self, orderid: &OrderId) {
        self.any = true;
        self.new_lines.insert(orderid.clone());
    }

    pub(super) fn move_line(&mut self, orderid: &OrderId) {
        self.any = true;
        if !self.new_lines.contains(orderid) {
            self.moved_lines.insert(orderid.clone());
        }
    }

    pub(super) fn remove_line(&mut self, orderid: &OrderId) {
        self.any = true;
        if !self.new_lines.remove(orderid) {
            self.moved_lines.remove(orderid);
            self.removed_lines.insert(orderid.clone());
        }
    }

    pub(super) fn changes<'a>(&'a self, batches: &'a Batches, lines: &'a Lines) -> ProductChanges<'a> {
        let batch = |reference| batches.get(reference);
        let line = |orderid| lines.get_with_key(orderid);
        ProductChanges {
            new_batches: self.new_batches.iter().filter_map(batch).collect(),
            changed_batches: self.batches.iter().filter_map(batch).collect(),
            removed_lines: self.removed_lines.iter().collect(),
            new_lines: self.new_lines.iter().filter_map(line).collect(),
            moved_lines: self.moved_lines.iter().filter_map(line).collect(),
        }
    }
}

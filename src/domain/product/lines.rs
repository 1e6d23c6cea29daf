//! The lines of a product, by order and by batch.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Bound::{Excluded, Unbounded},
};

use crate::domain::values::{BatchRef, OrderId};

use super::line::Line;

/// A line in the order in which the lines were first requested.
pub(super) type LineRank = (i64, OrderId);

/// Lines of one SKU. Every operation costs the logarithm of their number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lines {
    by_order: HashMap<OrderId, Line>,
    by_batch: HashMap<BatchRef, BTreeSet<LineRank>>,
    waiting: BTreeSet<LineRank>,
    waiting_units: u64,
}

impl Lines {
    pub(super) fn iter(&self) -> impl Iterator<Item = (&OrderId, &Line)> {
        self.by_order.iter()
    }

    pub(super) fn get(&self, orderid: &OrderId) -> Option<&Line> {
        self.by_order.get(orderid)
    }

    /// A line with its key.
    pub(super) fn get_with_key(&self, orderid: &OrderId) -> Option<(&OrderId, &Line)> {
        self.by_order.get_key_value(orderid)
    }

    /// The units of the lines without a batch.
    pub(super) fn waiting_units(&self) -> u64 {
        self.waiting_units
    }

    /// Adds a line, unless the order has one.
    pub(super) fn insert(&mut self, orderid: OrderId, line: Line) {
        if self.by_order.contains_key(&orderid) {
            return;
        }
        let rank = (line.position, orderid.clone());
        if let Some(batch) = &line.batch {
            self.by_batch.entry(batch.clone()).or_default().insert(rank);
        } else {
            self.waiting.insert(rank);
            self.waiting_units += u64::from(line.quantity.get());
        }
        self.by_order.insert(orderid, line);
    }

    pub(super) fn remove(&mut self, orderid: &OrderId) -> Option<Line> {
        let line = self.by_order.remove(orderid)?;
        let rank = (line.position, orderid.clone());
        if let Some(batch) = &line.batch {
            if let Some(lines) = self.by_batch.get_mut(batch) {
                lines.remove(&rank);
            }
        } else {
            self.waiting.remove(&rank);
            self.waiting_units -= u64::from(line.quantity.get());
        }
        Some(line)
    }

    /// Moves a line to a batch, or out of its batch, and returns it as it was.
    ///
    /// # Panics
    /// If there is no such line.
    pub(super) fn set_batch(&mut self, orderid: &OrderId, batch: Option<BatchRef>) -> Line {
        let line = self.remove(orderid).expect("the line is attached");
        self.insert(orderid.clone(), Line { batch, ..line.clone() });
        line
    }

    /// The newest line of a batch.
    pub(super) fn newest_of(&self, batch: &BatchRef) -> Option<OrderId> {
        self.by_batch.get(batch)?.last().map(|(_, orderid)| orderid.clone())
    }

    /// The oldest line without a batch that comes after another one.
    pub(super) fn waiting_after(&self, after: Option<&LineRank>) -> Option<&LineRank> {
        next_after(&self.waiting, after)
    }
}

/// The first element after another one.
pub(super) fn next_after<'a>(
    ranks: &'a BTreeSet<LineRank>,
    after: Option<&LineRank>,
) -> Option<&'a LineRank> {
    ranks.range((after.map_or(Unbounded, Excluded), Unbounded)).next()
}

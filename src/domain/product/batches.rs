//! The batches of a product, in the order of allocation.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound::{Excluded, Unbounded},
};

use time::Date;

use crate::domain::{
    batch::Batch,
    size_class::SizeClass,
    values::{BatchRef, Quantity},
};

/// The place of a batch in the order of allocation: the warehouse first, then by arrival, ties by reference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchRank {
    /// The day of its arrival; `None` if it is in the warehouse.
    pub eta: Option<Date>,
    /// Its reference.
    pub reference: BatchRef,
}

impl BatchRank {
    /// The place of a batch.
    #[must_use]
    pub fn of(batch: &Batch) -> Self {
        Self { eta: batch.eta, reference: batch.reference.clone() }
    }
}

/// A search of stored batches, in the order of allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchSearch {
    /// Batches with at least this available.
    pub quantity: u32,
    /// Only those after this one.
    pub after: Option<BatchRank>,
    /// The first ones, at most so many.
    pub at_most: usize,
}

impl BatchSearch {
    /// What a product is loaded with: nearly always all its batches that have available stock.
    pub const FIRST: Self = Self { quantity: 1, after: None, at_most: 32 };
}

/// Batches of one SKU. Every operation costs the logarithm of their number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batches {
    in_order: BTreeMap<BatchRank, Batch>,
    etas: HashMap<BatchRef, Option<Date>>,
    /// Those with available stock.
    by_class: BTreeMap<SizeClass, BTreeSet<BatchRank>>,
}

impl Batches {
    /// The batches in the order of allocation.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Batch> {
        self.in_order.values()
    }

    /// The batch with a reference.
    #[must_use]
    pub fn get(&self, reference: &BatchRef) -> Option<&Batch> {
        self.in_order.get(&self.rank(reference)?)
    }

    /// Adds a batch, or replaces the one with the same reference.
    pub fn insert(&mut self, batch: Batch) {
        if let Some(rank) = self.rank(&batch.reference) {
            self.leave_class(&rank);
            self.in_order.remove(&rank);
        }
        let rank = BatchRank::of(&batch);
        self.etas.insert(rank.reference.clone(), rank.eta);
        self.in_order.insert(rank.clone(), batch);
        self.join_class(rank);
    }

    /// Changes the quantities of a batch.
    ///
    /// # Panics
    /// If there is no such batch.
    pub(super) fn change(&mut self, reference: &BatchRef, change: impl FnOnce(&mut Batch)) {
        let rank = self.rank(reference).expect("the batch is attached");
        let batch = self.in_order.get_mut(&rank).expect("the batch is attached");
        let class = SizeClass::of(batch.available());
        change(batch);
        let changed = SizeClass::of(batch.available());
        if changed != class {
            self.remove_from(class, &rank);
            self.join_class(rank);
        }
    }

    /// The first batch that a line of `quantity` fits into.
    #[must_use]
    pub fn first_fit(&self, quantity: Quantity) -> Option<&Batch> {
        let class = SizeClass::of(quantity.get());
        let fits = |rank: &&BatchRank| self.in_order[*rank].can_allocate(quantity);
        let in_same_class = self.by_class.get(&class).and_then(|ranks| ranks.iter().find(fits));
        let larger = self.by_class.range(class.next()..).filter_map(|(_, ranks)| ranks.first());
        larger.chain(in_same_class).min().map(|rank| &self.in_order[rank])
    }

    /// The result of a search.
    #[must_use]
    pub fn search(&self, search: &BatchSearch) -> Vec<&Batch> {
        let class = SizeClass::of(search.quantity);
        let after = search.after.as_ref().map_or(Unbounded, Excluded);
        let mut found: Vec<_> = self
            .by_class
            .range(class..)
            .flat_map(|(_, ranks)| {
                let batches = ranks.range((after, Unbounded)).map(|rank| (rank, &self.in_order[rank]));
                batches.filter(|(_, batch)| batch.available() >= search.quantity).take(search.at_most)
            })
            .collect();
        found.sort_unstable_by_key(|(rank, _)| *rank);
        found.into_iter().map(|(_, batch)| batch).take(search.at_most).collect()
    }

    fn rank(&self, reference: &BatchRef) -> Option<BatchRank> {
        let eta = *self.etas.get(reference)?;
        Some(BatchRank { eta, reference: reference.clone() })
    }

    fn join_class(&mut self, rank: BatchRank) {
        let available = self.in_order[&rank].available();
        if available > 0 {
            self.by_class.entry(SizeClass::of(available)).or_default().insert(rank);
        }
    }

    fn leave_class(&mut self, rank: &BatchRank) {
        self.remove_from(SizeClass::of(self.in_order[rank].available()), rank);
    }

    fn remove_from(&mut self, class: SizeClass, rank: &BatchRank) {
        if let Some(ranks) = self.by_class.get_mut(&class) {
            ranks.remove(rank);
            if ranks.is_empty() {
                self.by_class.remove(&class);
            }
        }
    }
}

//! A batch: purchased stock of one SKU.

use time::Date;

use super::values::{BatchRef, Quantity, StockQuantity};

/// Stock of one SKU that arrives together or is in the warehouse.
///
/// Invariant: the allocated quantity never exceeds the purchased one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Its reference, unique over all SKUs.
    pub reference: BatchRef,
    /// The day of its arrival; `None` if it is in the warehouse.
    pub eta: Option<Date>,
    ordered: u32,
    purchased: u32,
    allocated: u32,
    revision: Option<i64>,
}

impl Batch {
    /// A new batch without allocations.
    #[must_use]
    pub fn new(reference: BatchRef, ordered: StockQuantity, eta: Option<Date>) -> Self {
        Self {
            reference,
            eta,
            ordered: ordered.get(),
            purchased: ordered.get(),
            allocated: 0,
            revision: None,
        }
    }

    /// A stored batch.
    ///
    /// # Panics
    /// If more is allocated than was purchased: a store must not contain such a batch.
    #[must_use]
    pub fn from_stored(
        reference: BatchRef,
        eta: Option<Date>,
        ordered: u32,
        purchased: u32,
        allocated: u32,
        revision: Option<i64>,
    ) -> Self {
        assert!(allocated <= purchased, "batch {reference} has {allocated} allocated of {purchased}");
        Self { reference, eta, ordered, purchased, allocated, revision }
    }

    /// The quantity that it was created with. It distinguishes a repeated creation from another batch of the same reference.
    #[must_use]
    pub fn ordered(&self) -> u32 {
        self.ordered
    }

    /// The purchased quantity: as ordered, or as corrected since.
    #[must_use]
    pub fn purchased(&self) -> u32 {
        self.purchased
    }

    /// The quantity that is allocated to lines.
    #[must_use]
    pub fn allocated(&self) -> u32 {
        self.allocated
    }

    /// The quantity that is not allocated.
    #[must_use]
    pub fn available(&self) -> u32 {
        self.purchased - self.allocated
    }

    /// The revision of the last correction that had one.
    #[must_use]
    pub fn revision(&self) -> Option<i64> {
        self.revision
    }

    /// Whether a line of `quantity` fits; lines are never split.
    #[must_use]
    pub fn can_allocate(&self, quantity: Quantity) -> bool {
        self.available() >= quantity.get()
    }

    /// To be called only if [`Self::can_allocate`].
    pub(super) fn allocate(&mut self, quantity: Quantity) {
        assert!(self.can_allocate(quantity), "a line of {quantity} does not fit in batch {}", self.reference);
        self.allocated += quantity.get();
    }

    pub(super) fn deallocate(&mut self, quantity: Quantity) {
        self.allocated -= quantity.get();
    }

    /// The quantity that must be deallocated before the purchased quantity can become `purchased`.
    #[must_use]
    pub fn excess(&self, purchased: StockQuantity) -> u32 {
        self.allocated.saturating_sub(purchased.get())
    }

    /// Whether a correction with this revision is outdated: not above the last one.
    #[must_use]
    pub fn is_stale(&self, revision: Option<i64>) -> bool {
        matches!((revision, self.revision), (Some(new), Some(last)) if new <= last)
    }

    /// To be called only if there is no [`Self::excess`].
    pub(super) fn change_purchased(&mut self, purchased: StockQuantity, revision: Option<i64>) {
        assert_eq!(self.excess(purchased), 0, "batch {} still has an excess", self.reference);
        self.purchased = purchased.get();
        self.revision = revision.or(self.revision);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(purchased: u32) -> Batch {
        Batch::new(BatchRef::new("batch-1").unwrap(), StockQuantity::new(purchased).unwrap(), None)
    }

    fn quantity(number: u32) -> Quantity {
        Quantity::new(number).unwrap()
    }

    #[test]
    fn a_batch_has_the_quantities_and_the_revision_it_was_stored_with() {
        let stored = Batch::from_stored(BatchRef::new("batch-1").unwrap(), None, 20, 25, 7, Some(3));
        assert_eq!((stored.purchased(), stored.allocated(), stored.revision()), (25, 7, Some(3)));
        assert_eq!(stored.available(), 18);
    }

    /// U1 of the book.
    #[test]
    fn allocating_reduces_the_available_quantity() {
        let mut batch = batch(20);
        batch.allocate(quantity(2));
        assert_eq!(batch.available(), 18);
    }

    /// U2, U3 and U4 of the book.
    #[test]
    fn a_line_fits_when_at_least_its_quantity_is_available() {
        assert!(batch(20).can_allocate(quantity(2)));
        assert!(!batch(2).can_allocate(quantity(20)));
        assert!(batch(2).can_allocate(quantity(2)));
    }

    /// R1 of the book.
    #[test]
    fn deallocating_restores_the_available_quantity() {
        let mut batch = batch(20);
        batch.allocate(quantity(2));
        batch.deallocate(quantity(2));
        assert_eq!(batch.available(), 20);
    }

    #[test]
    fn a_revision_not_above_the_last_one_is_stale() {
        let mut batch = batch(20);
        assert!(!batch.is_stale(Some(1)));
        batch.change_purchased(StockQuantity::new(10u32).unwrap(), Some(3));
        assert!(batch.is_stale(Some(3)));
        assert!(batch.is_stale(Some(2)));
        assert!(!batch.is_stale(Some(4)));
        assert!(!batch.is_stale(None));
    }
}

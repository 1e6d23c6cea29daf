//! The rules of allocation.
//!
//! A rule that frees stock does not reallocate it: [`Product::allocate_backorders`] must follow. The message bus attaches
//! the backorders between the two, if [`Product::needs_waiting_lines`].

use crate::domain::{
    batch::Batch,
    event::Event,
    rejection::Rejection,
    values::{BatchRef, OrderId, Quantity, StockQuantity},
};

use super::{
    batches::{BatchRank, BatchSearch},
    line::Line,
    lines::{LineRank, next_after},
    product::{Offer, Product},
};

/// Lines that one call of [`Product::allocate_backorders`] or [`Product::remove_excess`] changes at most, so that other work
/// continues between two calls.
const LINES_AT_ONCE: usize = 500;

/// How far freed stock has been offered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum OfferProgress {
    /// To every line that it may reach.
    Done,
    /// To many lines, and there are more.
    Paused,
    /// Not to the next line: batches that it may fit into must be attached first.
    Missing(BatchSearch),
}

impl Product {
    /// Adds a batch. The same batch again changes nothing. May free stock.
    ///
    /// # Errors
    /// [`Rejection::BatchMismatch`] if the batch was created with another quantity or eta.
    pub fn add_batch(&mut self, batch: Batch) -> Result<(), Rejection> {
        if let Some(existing) = self.batch(&batch.reference) {
            let same = existing.eta == batch.eta && existing.ordered() == batch.ordered();
            return if same { Ok(()) } else { Err(Rejection::BatchMismatch(batch.reference)) };
        }
        self.dirty.add_batch(&batch.reference);
        self.offer.batches.insert(BatchRank::of(&batch));
        self.batches.insert(batch);
        Ok(())
    }

    /// Allocates a line to the first batch that it fits into, or keeps it as a backorder. The same line again changes
    /// nothing.
    ///
    /// The line, if stored, must be attached, and no search may be missing ([`Self::missing_search`]).
    ///
    /// # Errors
    /// [`Rejection::QuantityMismatch`] if the line exists with another quantity.
    ///
    /// # Panics
    /// If the batch that the line belongs to may not be attached.
    pub fn allocate(&mut self, orderid: &OrderId, quantity: Quantity) -> Result<(), Rejection> {
        if let Some(existing) = self.lines.get(orderid) {
            return self.check_quantity(orderid, existing.quantity, quantity);
        }
        assert_eq!(
            self.missing_search(quantity),
            None,
            "the first batch that the line fits into is attached"
        );
        self.last_position += 1;
        let line = Line { quantity, position: self.last_position, batch: None };
        self.lines.insert(orderid.clone(), line);
        self.dirty.add_line(orderid);
        self.backordered += u64::from(quantity.get());
        match self.batches.first_fit(quantity).map(|batch| batch.reference.clone()) {
            Some(batch) => self.assign(orderid, batch),
            None => self.out_of_stock(orderid),
        }
        Ok(())
    }

    fn check_quantity(&self, orderid: &OrderId, known: Quantity, asked: Quantity) -> Result<(), Rejection> {
        if known == asked {
            return Ok(());
        }
        let (orderid, sku) = (orderid.clone(), self.sku.clone());
        Err(Rejection::QuantityMismatch { orderid, sku, known, asked })
    }

    /// Removes a line. A line that does not exist changes nothing. May free stock.
    ///
    /// The line and its batch, if stored, must be attached.
    pub fn deallocate(&mut self, orderid: &OrderId) {
        let Some(line) = self.lines.remove(orderid) else {
            return;
        };
        self.dirty.remove_line(orderid);
        if let Some(reference) = line.batch {
            self.release(orderid, &reference, line.quantity);
        } else {
            self.backordered -= u64::from(line.quantity.get());
            let (orderid, sku) = (orderid.clone(), self.sku.clone());
            self.record(Event::BackorderCancelled { orderid, sku });
        }
    }

    /// Changes the purchased quantity of a batch, and removes its newest lines until the rest fits. A stale `revision`
    /// changes nothing. May free stock and leave lines without a batch.
    ///
    /// The batch must be attached, and its newest lines as far as [`Batch::excess`] reaches.
    ///
    /// # Errors
    /// [`Rejection::InvalidBatchref`] if the batch does not exist.
    ///
    /// # Panics
    /// If too few lines are attached to remove the excess.
    pub fn change_batch_quantity(
        &mut self,
        reference: &BatchRef,
        purchased: StockQuantity,
        revision: Option<i64>,
    ) -> Result<(), Rejection> {
        let batch = self.batch(reference).ok_or_else(|| Rejection::InvalidBatchref(reference.clone()))?;
        if batch.is_stale(revision) {
            return Ok(());
        }
        while self.remove_excess(reference, purchased) {}
        self.batches.change(reference, |batch| batch.change_purchased(purchased, revision));
        self.offer_stock_of(reference);
        self.dirty.change_batch(reference);
        Ok(())
    }

    /// Removes the newest lines of a batch, many at a time, until `purchased` is enough for the rest. Whether it is not yet.
    /// [`Self::change_batch_quantity`] must follow.
    ///
    /// # Panics
    /// If too few lines are attached to remove the excess.
    pub fn remove_excess(&mut self, reference: &BatchRef, purchased: StockQuantity) -> bool {
        for _ in 0..LINES_AT_ONCE {
            if self.batch(reference).is_none_or(|batch| batch.excess(purchased) == 0) {
                return false;
            }
            let newest = self.lines.newest_of(reference);
            let newest = newest.expect("the newest lines are attached as far as the excess reaches");
            self.unassign(&newest, reference);
        }
        true
    }

    /// Allocates the backorders to the freed stock, oldest first. A line that does not fit is skipped. To be called until it
    /// is done.
    ///
    /// If [`Self::needs_waiting_lines`], the backorders must be attached as far as the freed stock reaches.
    pub fn allocate_backorders(&mut self) -> OfferProgress {
        for _ in 0..LINES_AT_ONCE {
            let Some(next) = self.next_to_consider() else {
                self.offer = Offer::default();
                return OfferProgress::Done;
            };
            let Some(quantity) = self.lines.get(&next.1).map(|line| line.quantity) else {
                unreachable!("a waiting line is attached");
            };
            let batch = if self.offer.lines.contains(&next) {
                if let Some(search) = self.missing_search(quantity) {
                    return OfferProgress::Missing(search);
                }
                self.batches.first_fit(quantity)
            } else {
                self.freed_batches().find(|batch| batch.can_allocate(quantity))
            };
            if let Some(batch) = batch.map(|batch| batch.reference.clone()) {
                self.assign(&next.1, batch);
            }
            self.offer.considered = Some(next);
        }
        OfferProgress::Paused
    }

    /// The oldest waiting line that was not considered. Without freed stock, only those count that may fit elsewhere.
    fn next_to_consider(&self) -> Option<LineRank> {
        let after = self.offer.considered.as_ref();
        let next = if self.freed_stock().any(|available| available > 0) {
            self.lines.waiting_after(after)
        } else {
            next_after(&self.offer.lines, after)
        };
        next.cloned()
    }

    /// The available stock of each batch whose stock was freed and has not been offered yet.
    pub fn freed_stock(&self) -> impl Iterator<Item = u32> {
        self.freed_batches().map(Batch::available)
    }

    /// In the order of allocation.
    fn freed_batches(&self) -> impl Iterator<Item = &Batch> {
        self.offer.batches.iter().filter_map(|rank| self.batches.get(&rank.reference))
    }

    /// Emits `out_of_stock` for a line that is a backorder.
    pub fn emit_if_backordered(&mut self, orderid: &OrderId) {
        if self.lines.get(orderid).is_some_and(|line| line.batch.is_none()) {
            self.out_of_stock(orderid);
        }
    }

    /// Whether stock was freed while there are backorders that are not attached.
    #[must_use]
    pub fn needs_waiting_lines(&self) -> bool {
        !self.offer.batches.is_empty() && self.backordered > self.lines.waiting_units()
    }

    /// Allocates a backorder to a batch that it fits into.
    fn assign(&mut self, orderid: &OrderId, batchref: BatchRef) {
        let quantity = self.lines.set_batch(orderid, Some(batchref.clone())).quantity;
        self.batches.change(&batchref, |batch| batch.allocate(quantity));
        self.backordered -= u64::from(quantity.get());
        self.dirty.move_line(orderid);
        self.dirty.change_batch(&batchref);
        let (orderid, sku) = (orderid.clone(), self.sku.clone());
        self.record(Event::Allocated { orderid, sku, qty: quantity, batchref });
    }

    /// Removes a line from its batch; it becomes a backorder.
    fn unassign(&mut self, orderid: &OrderId, reference: &BatchRef) {
        let line = self.lines.set_batch(orderid, None);
        self.backordered += u64::from(line.quantity.get());
        self.offer.lines.insert((line.position, orderid.clone()));
        self.dirty.move_line(orderid);
        self.release(orderid, reference, line.quantity);
    }

    /// Frees the stock that a line had in its batch.
    fn release(&mut self, orderid: &OrderId, reference: &BatchRef, quantity: Quantity) {
        self.batches.change(reference, |batch| batch.deallocate(quantity));
        self.offer_stock_of(reference);
        self.dirty.change_batch(reference);
        let (orderid, sku, batchref) = (orderid.clone(), self.sku.clone(), reference.clone());
        self.record(Event::Deallocated { orderid, sku, qty: quantity, batchref });
    }

    fn offer_stock_of(&mut self, reference: &BatchRef) {
        let batch = self.batches.get(reference).expect("the batch is attached");
        self.offer.batches.insert(BatchRank::of(batch));
    }

    fn out_of_stock(&mut self, orderid: &OrderId) {
        let qty = self.lines.get(orderid).expect("the line is attached").quantity;
        let (orderid, sku) = (orderid.clone(), self.sku.clone());
        self.record(Event::OutOfStock { orderid, sku, qty });
    }
}

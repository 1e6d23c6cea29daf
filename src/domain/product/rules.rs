//! The rules of allocation.
//!
//! A rule that frees stock does not reallocate it: [`Product::allocate_backorders`] must follow. The message bus attaches
//! the backorders between the two, if [`Product::needs_waiting_lines`].

use std::mem;

use crate::domain::{
    batch::Batch,
    event::Event,
    rejection::Rejection,
    values::{BatchRef, OrderId, Quantity, StockQuantity},
};

use super::{line::Line, product::Product};

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
        self.stock_freed = true;
        self.insert(batch);
        Ok(())
    }

    /// Allocates a line to the first batch that it fits into, or keeps it as a backorder. The same line again changes
    /// nothing.
    ///
    /// The line, if stored, and the batches with available stock must be attached.
    ///
    /// # Errors
    /// [`Rejection::QuantityMismatch`] if the line exists with another quantity.
    pub fn allocate(&mut self, orderid: &OrderId, quantity: Quantity) -> Result<(), Rejection> {
        if let Some(existing) = self.lines.get(orderid) {
            return self.check_quantity(orderid, existing.quantity, quantity);
        }
        self.last_position += 1;
        let line = Line { quantity, position: self.last_position, batch: None };
        self.lines.insert(orderid.clone(), line);
        self.dirty.add_line(orderid);
        self.backordered += u64::from(quantity.get());
        if !self.assign(orderid) {
            self.out_of_stock(orderid);
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
        let index =
            self.batch_index(reference).ok_or_else(|| Rejection::InvalidBatchref(reference.clone()))?;
        if self.batches[index].is_stale(revision) {
            return Ok(());
        }
        let mut lines = self.lines_by_position(Some(reference));
        while self.batches[index].excess(purchased) > 0 {
            let newest = lines.pop().expect("the newest lines are attached as far as the excess reaches");
            self.unassign(&newest, reference);
        }
        self.batches[index].change_purchased(purchased, revision);
        self.stock_freed = true;
        self.dirty.change_batch(reference);
        Ok(())
    }

    /// Allocates the backorders to the freed stock, oldest first. A line that does not fit is skipped.
    ///
    /// If [`Self::needs_waiting_lines`], the backorders must be attached as far as the available stock reaches.
    pub fn allocate_backorders(&mut self) {
        if !mem::take(&mut self.stock_freed) {
            return;
        }
        for orderid in self.lines_by_position(None) {
            if self.largest_available() == 0 {
                return;
            }
            self.assign(&orderid);
        }
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
        self.stock_freed && self.unattached_backorders() > 0
    }

    /// The units of the backorders that are not attached.
    fn unattached_backorders(&self) -> u64 {
        let attached = self.lines.values().filter(|line| line.batch.is_none());
        self.backordered - attached.map(|line| u64::from(line.quantity.get())).sum::<u64>()
    }

    /// The attached lines of a batch, or those without one, oldest first.
    fn lines_by_position(&self, batch: Option<&BatchRef>) -> Vec<OrderId> {
        let mut lines: Vec<_> = self.lines.iter().filter(|(_, line)| line.batch.as_ref() == batch).collect();
        lines.sort_unstable_by_key(|(orderid, line)| (line.position, *orderid));
        lines.into_iter().map(|(orderid, _)| orderid.clone()).collect()
    }

    fn batch_index(&self, reference: &BatchRef) -> Option<usize> {
        self.batches.iter().position(|batch| batch.reference == *reference)
    }

    fn largest_available(&self) -> u32 {
        self.batches.iter().map(Batch::available).max().unwrap_or(0)
    }

    /// Allocates a backorder to the first batch that it fits into. False if there is none.
    fn assign(&mut self, orderid: &OrderId) -> bool {
        let line = self.lines.get_mut(orderid).expect("the line is attached");
        let quantity = line.quantity;
        let Some(batch) = self.batches.iter_mut().find(|batch| batch.can_allocate(quantity)) else {
            return false;
        };
        batch.allocate(quantity);
        let batchref = batch.reference.clone();
        line.batch = Some(batchref.clone());
        self.backordered -= u64::from(quantity.get());
        self.dirty.move_line(orderid);
        self.dirty.change_batch(&batchref);
        let (orderid, sku) = (orderid.clone(), self.sku.clone());
        self.record(Event::Allocated { orderid, sku, qty: quantity, batchref });
        true
    }

    /// Removes a line from its batch; it becomes a backorder.
    fn unassign(&mut self, orderid: &OrderId, reference: &BatchRef) {
        let line = self.lines.get_mut(orderid).expect("the line is attached");
        line.batch = None;
        let quantity = line.quantity;
        self.backordered += u64::from(quantity.get());
        self.dirty.move_line(orderid);
        self.release(orderid, reference, quantity);
    }

    /// Frees the stock that a line had in its batch.
    fn release(&mut self, orderid: &OrderId, reference: &BatchRef, quantity: Quantity) {
        let index = self.batch_index(reference).expect("the batch of an attached line is attached");
        self.batches[index].deallocate(quantity);
        self.stock_freed = true;
        self.dirty.change_batch(reference);
        let (orderid, sku, batchref) = (orderid.clone(), self.sku.clone(), reference.clone());
        self.record(Event::Deallocated { orderid, sku, qty: quantity, batchref });
    }

    fn out_of_stock(&mut self, orderid: &OrderId) {
        let (orderid, sku, qty) = (orderid.clone(), self.sku.clone(), self.lines[orderid].quantity);
        self.record(Event::OutOfStock { orderid, sku, qty });
    }
}

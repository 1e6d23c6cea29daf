//! The aggregate: one SKU, its batches, and the lines asked for.
//!
//! A product in memory knows only what the decisions at hand need: the batches that have something left or are
//! named, the lines that are asked about, and of the others as many as stock can reach. What it does not know it
//! must be told first ([`Product::attach_batch`], [`Product::attach_line`]); each method says what.

use std::collections::{BTreeSet, HashMap};

use super::{Batch, BatchRef, Event, OrderId, Quantity, RecordedEvent, Rejection, Sku, StockQuantity};

/// One line of an order, as its product knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// How many are asked for.
    pub quantity: Quantity,
    /// When it was first asked for, as a count per SKU: the smaller, the older.
    pub position: i64,
    /// The batch it sits in; none while it waits as a backorder.
    pub batch: Option<BatchRef>,
}

/// What changed since the product was loaded, in the terms of a store.
#[derive(Debug, Default)]
pub struct ProductChanges<'a> {
    /// Batches that did not exist.
    pub new_batches: Vec<&'a Batch>,
    /// Batches whose numbers changed.
    pub changed_batches: Vec<&'a Batch>,
    /// Lines that were stored and are gone; a new line may have taken the name of one.
    pub removed_lines: Vec<&'a OrderId>,
    /// Lines that did not exist.
    pub new_lines: Vec<(&'a OrderId, &'a Line)>,
    /// Lines that sit elsewhere than before.
    pub moved_lines: Vec<(&'a OrderId, &'a Line)>,
}

/// Batches and lines of one SKU; the boundary of consistency: whoever changes any of it holds all of it.
///
/// Invariants: no batch has more allocated than purchased; no line is in two batches; between two commands no
/// waiting line fits in any batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Product {
    sku: Sku,
    version: i64,
    sequence: i64,
    last_place: i64,
    backordered: u64,
    /// In the order of allocation.
    batches: Vec<Batch>,
    lines: HashMap<OrderId, Line>,
    events: Vec<RecordedEvent>,
    changed: DirtyFields,
}

/// Names of what differs from the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct DirtyFields {
    any: bool,
    /// Something came free that was not offered to the waiting lines yet.
    stock: bool,
    new_batches: BTreeSet<BatchRef>,
    batches: BTreeSet<BatchRef>,
    new_lines: BTreeSet<OrderId>,
    moved_lines: BTreeSet<OrderId>,
    removed_lines: BTreeSet<OrderId>,
}

impl Product {
    /// A SKU nobody has heard of: no batch, no line.
    #[must_use]
    pub fn new(sku: Sku) -> Self {
        Self::from_stored(sku, 0, 0, 0, 0)
    }

    /// A product as a store kept it; its batches and lines are to be learnt.
    ///
    /// `version` counts its changes, `sequence` its published events, `last_place` the lines ever asked for, and
    /// `backordered` the units that wait.
    #[must_use]
    pub fn from_stored(sku: Sku, version: i64, sequence: i64, last_place: i64, backordered: u64) -> Self {
        Self {
            sku,
            version,
            sequence,
            last_place,
            backordered,
            batches: Vec::new(),
            lines: HashMap::new(),
            events: Vec::new(),
            changed: DirtyFields::default(),
        }
    }

    /// Its identity.
    #[must_use]
    pub fn sku(&self) -> &Sku {
        &self.sku
    }

    /// The version it was loaded with; 0 for one that is not stored yet.
    #[must_use]
    pub fn version(&self) -> i64 {
        self.version
    }

    /// The sequence of its last published event.
    #[must_use]
    pub fn sequence(&self) -> i64 {
        self.sequence
    }

    /// The place of the line that was asked for last.
    #[must_use]
    pub fn last_place(&self) -> i64 {
        self.last_place
    }

    /// How many units wait as backorders, known lines and unknown ones.
    #[must_use]
    pub fn backordered(&self) -> u64 {
        self.backordered
    }

    /// The batches it knows, in the order in which lines are placed.
    #[must_use]
    pub fn batches(&self) -> &[Batch] {
        &self.batches
    }

    /// A batch it knows.
    #[must_use]
    pub fn batch(&self, reference: &BatchRef) -> Option<&Batch> {
        self.batches.iter().find(|batch| batch.reference == *reference)
    }

    /// The lines it knows, in no order.
    pub fn lines(&self) -> impl Iterator<Item = (&OrderId, &Line)> {
        self.lines.iter()
    }

    /// A line it knows.
    #[must_use]
    pub fn line(&self, orderid: &OrderId) -> Option<&Line> {
        self.lines.get(orderid)
    }

    /// Takes over a batch from the store, unless it is known: what is in memory is newer.
    pub fn attach_batch(&mut self, batch: Batch) {
        if self.batch(&batch.reference).is_none() {
            self.insert(batch);
        }
    }

    /// Takes over a line from the store, unless it is known or was removed: what is in memory is newer.
    pub fn attach_line(&mut self, orderid: OrderId, line: Line) {
        if !self.changed.removed_lines.contains(&orderid) {
            self.lines.entry(orderid).or_insert(line);
        }
    }

    /// Lines of which the store's word no longer counts: those in memory, and those removed.
    pub fn known_lines(&self) -> impl Iterator<Item = &OrderId> {
        let removed = self.changed.removed_lines.iter();
        self.lines.keys().chain(removed.filter(|orderid| !self.lines.contains_key(*orderid)))
    }

    /// Adds a batch, known or not: the same again changes nothing.
    ///
    /// Afterwards stock may be free: [`Self::allocate_waiting`] is due.
    ///
    /// # Errors
    /// [`Rejection::BatchMismatch`] if the batch was created with another quantity or eta.
    pub fn add_batch(&mut self, batch: Batch) -> Result<(), Rejection> {
        if let Some(known) = self.batch(&batch.reference) {
            let same = known.eta == batch.eta && known.ordered() == batch.ordered();
            return if same { Ok(()) } else { Err(Rejection::BatchMismatch(batch.reference)) };
        }
        self.changed.new_batches.insert(batch.reference.clone());
        self.changed.any = true;
        self.changed.stock = true;
        self.insert(batch);
        Ok(())
    }

    /// Places a line in the first batch it fits in, or keeps it waiting. The same line again changes nothing.
    ///
    /// The line must have been learnt if it is stored, and the batches that have something available.
    ///
    /// # Errors
    /// [`Rejection::QuantityMismatch`] if the line is known with another quantity.
    pub fn allocate(&mut self, orderid: &OrderId, quantity: Quantity) -> Result<(), Rejection> {
        if let Some(known) = self.lines.get(orderid) {
            return if known.quantity == quantity {
                Ok(())
            } else {
                Err(Rejection::QuantityMismatch {
                    orderid: orderid.clone(),
                    sku: self.sku.clone(),
                    known: known.quantity,
                    asked: quantity,
                })
            };
        }
        self.last_place += 1;
        let line = Line { quantity, position: self.last_place, batch: None };
        self.lines.insert(orderid.clone(), line);
        self.changed.new_lines.insert(orderid.clone());
        self.changed.any = true;
        self.backordered += u64::from(quantity.get());
        if !self.place(orderid) {
            self.out_of_stock(orderid);
        }
        Ok(())
    }

    /// Takes a line back, wherever it is. A line that is not there is no error: a repeat changes nothing.
    ///
    /// The line and its batch must have been learnt if they are stored. Afterwards stock may be free:
    /// [`Self::allocate_waiting`] is due.
    pub fn deallocate(&mut self, orderid: &OrderId) {
        let Some(line) = self.lines.remove(orderid) else {
            return;
        };
        if !self.changed.new_lines.remove(orderid) {
            self.changed.moved_lines.remove(orderid);
            self.changed.removed_lines.insert(orderid.clone());
        }
        self.changed.any = true;
        if let Some(reference) = line.batch {
            self.release(orderid, &reference, line.quantity);
        } else {
            self.backordered -= u64::from(line.quantity.get());
            let (orderid, sku) = (orderid.clone(), self.sku.clone());
            self.record(Event::BackorderCancelled { orderid, sku });
        }
    }

    /// Takes over what a batch holds in truth; the newest lines leave it until the rest fits.
    ///
    /// The batch must have been learnt, and its newest lines as far as [`Batch::excess`] reaches. Afterwards stock
    /// may be free and lines may be without a batch: [`Self::allocate_waiting`] is due.
    ///
    /// # Errors
    /// [`Rejection::InvalidBatchref`] if the batch is not known.
    ///
    /// # Panics
    /// If too few lines were learnt to take the excess out.
    pub fn change_batch_quantity(
        &mut self,
        reference: &BatchRef,
        purchased: StockQuantity,
        revision: Option<i64>,
    ) -> Result<(), Rejection> {
        let position =
            self.batch_index(reference).ok_or_else(|| Rejection::InvalidBatchref(reference.clone()))?;
        if self.batches[position].is_stale(revision) {
            return Ok(());
        }
        let mut newest_last: Vec<_> = self
            .lines
            .iter()
            .filter(|(_, line)| line.batch.as_ref() == Some(reference))
            .map(|(orderid, line)| (line.position, orderid.clone()))
            .collect();
        newest_last.sort_unstable();
        while self.batches[position].excess(purchased) > 0 {
            let (_, orderid) =
                newest_last.pop().expect("the newest lines were learnt as far as the excess reaches");
            self.unassign(&orderid, reference);
        }
        self.batches[position].change_purchased(purchased, revision);
        self.changed.stock = true;
        self.touch(reference);
        Ok(())
    }

    /// Offers what is available to the lines that wait, the oldest first; one that does not fit is passed over.
    ///
    /// The waiting lines must have been learnt as far as the available stock reaches, if
    /// [`Self::needs_waiting_lines`] says so.
    pub fn allocate_waiting(&mut self) {
        if !std::mem::take(&mut self.changed.stock) {
            return;
        }
        let mut oldest_first: Vec<_> = self
            .lines
            .iter()
            .filter(|(_, line)| line.batch.is_none())
            .map(|(orderid, line)| (line.position, orderid.clone()))
            .collect();
        oldest_first.sort_unstable();
        for (_, orderid) in oldest_first {
            if self.largest_available() == 0 {
                return;
            }
            self.place(&orderid);
        }
    }

    /// Says of a line that it waits, if it still does after others and it were offered what is available.
    pub fn emit_if_backordered(&mut self, orderid: &OrderId) {
        if self.lines.get(orderid).is_some_and(|line| line.batch.is_none()) {
            self.out_of_stock(orderid);
        }
    }

    /// Whether [`Self::allocate_waiting`] is due while lines wait that were not learnt.
    #[must_use]
    pub fn needs_waiting_lines(&self) -> bool {
        self.changed.stock && self.unknown_backorders() > 0
    }

    /// How many units wait in lines that were not learnt.
    fn unknown_backorders(&self) -> u64 {
        let waiting = self.lines.values().filter(|line| line.batch.is_none());
        self.backordered - waiting.map(|line| u64::from(line.quantity.get())).sum::<u64>()
    }

    /// Whether anything has changed since it was loaded.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.changed.any
    }

    /// What has changed since it was loaded.
    #[must_use]
    pub fn changes(&self) -> ProductChanges<'_> {
        let (new_batches, known_batches) = (&self.changed.new_batches, &self.changed.batches);
        let line = |orderid| self.lines.get_key_value(orderid);
        ProductChanges {
            new_batches: self.batches.iter().filter(|batch| new_batches.contains(&batch.reference)).collect(),
            changed_batches: self
                .batches
                .iter()
                .filter(|batch| known_batches.contains(&batch.reference))
                .collect(),
            removed_lines: self.changed.removed_lines.iter().collect(),
            new_lines: self.changed.new_lines.iter().filter_map(line).collect(),
            moved_lines: self.changed.moved_lines.iter().filter_map(line).collect(),
        }
    }

    /// Hands over the events recorded since the last call, in the order in which they happened.
    pub fn take_events(&mut self) -> Vec<RecordedEvent> {
        std::mem::take(&mut self.events)
    }

    fn insert(&mut self, batch: Batch) {
        let position =
            self.batches.partition_point(|known| known.allocation_order() < batch.allocation_order());
        self.batches.insert(position, batch);
    }

    fn batch_index(&self, reference: &BatchRef) -> Option<usize> {
        self.batches.iter().position(|batch| batch.reference == *reference)
    }

    fn largest_available(&self) -> u32 {
        self.batches.iter().map(Batch::available).max().unwrap_or(0)
    }

    /// Puts a waiting line into the first batch it fits in; false if there is none.
    fn place(&mut self, orderid: &OrderId) -> bool {
        let line = self.lines.get_mut(orderid).expect("only known lines are placed");
        let quantity = line.quantity;
        let Some(batch) = self.batches.iter_mut().find(|batch| batch.can_allocate(quantity)) else {
            return false;
        };
        batch.allocate(quantity);
        let batchref = batch.reference.clone();
        line.batch = Some(batchref.clone());
        self.backordered -= u64::from(quantity.get());
        self.moved(orderid);
        self.touch(&batchref);
        self.record(Event::Allocated {
            orderid: orderid.clone(),
            sku: self.sku.clone(),
            qty: quantity,
            batchref,
        });
        true
    }

    /// Takes a line out of its batch; it waits from then on.
    fn unassign(&mut self, orderid: &OrderId, reference: &BatchRef) {
        let line = self.lines.get_mut(orderid).expect("only known lines are displaced");
        line.batch = None;
        let quantity = line.quantity;
        self.backordered += u64::from(quantity.get());
        self.moved(orderid);
        self.release(orderid, reference, quantity);
    }

    /// Gives back what a line held in its batch.
    fn release(&mut self, orderid: &OrderId, reference: &BatchRef, quantity: Quantity) {
        let position = self.batch_index(reference).expect("a line's batch was learnt with it");
        self.batches[position].deallocate(quantity);
        self.changed.stock = true;
        self.touch(reference);
        let (orderid, sku, batchref) = (orderid.clone(), self.sku.clone(), reference.clone());
        self.record(Event::Deallocated { orderid, sku, qty: quantity, batchref });
    }

    fn out_of_stock(&mut self, orderid: &OrderId) {
        let (orderid, sku, qty) = (orderid.clone(), self.sku.clone(), self.lines[orderid].quantity);
        self.record(Event::OutOfStock { orderid, sku, qty });
    }

    fn record(&mut self, event: Event) {
        let sequence = event.public_name().map(|_| {
            self.sequence += 1;
            self.sequence
        });
        self.events.push(RecordedEvent { sequence, event });
    }

    fn touch(&mut self, reference: &BatchRef) {
        self.changed.any = true;
        if !self.changed.new_batches.contains(reference) {
            self.changed.batches.insert(reference.clone());
        }
    }

    fn moved(&mut self, orderid: &OrderId) {
        if !self.changed.new_lines.contains(orderid) {
            self.changed.moved_lines.insert(orderid.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::{Date, macros::date};

    const TODAY: Date = date!(2026 - 11 - 02);
    const TOMORROW: Date = date!(2026 - 11 - 03);
    const LATER: Date = date!(2026 - 12 - 24);

    fn product(batches: &[(&str, u32, Option<Date>)]) -> Product {
        let mut product = Product::new(Sku::new("OAK-STOOL").unwrap());
        for (reference, quantity, eta) in batches {
            product
                .add_batch(Batch::new(batchref(reference), StockQuantity::new(*quantity).unwrap(), *eta))
                .unwrap();
        }
        product
    }

    fn batchref(name: &str) -> BatchRef {
        BatchRef::new(name).unwrap()
    }

    fn order(name: &str) -> OrderId {
        OrderId::new(name).unwrap()
    }

    fn ask(product: &mut Product, name: &str, quantity: u32) {
        product.allocate(&order(name), Quantity::new(quantity).unwrap()).unwrap();
    }

    fn change(product: &mut Product, reference: &str, quantity: u32) {
        product
            .change_batch_quantity(&batchref(reference), StockQuantity::new(quantity).unwrap(), None)
            .unwrap();
        product.allocate_waiting();
    }

    fn available(product: &Product, reference: &str) -> u32 {
        product.batch(&batchref(reference)).unwrap().available()
    }

    fn sits_in(product: &Product, name: &str) -> Option<String> {
        product.line(&order(name)).unwrap().batch.as_ref().map(ToString::to_string)
    }

    /// What happened, in short: `+order@batch`, `-order@batch`, `?order`.
    fn story(product: &mut Product) -> Vec<String> {
        let tell = |recorded: RecordedEvent| match recorded.event {
            Event::Allocated { orderid, batchref, .. } => format!("+{orderid}@{batchref}"),
            Event::Deallocated { orderid, batchref, .. } => format!("-{orderid}@{batchref}"),
            Event::OutOfStock { orderid, .. } => format!("?{orderid}"),
            Event::BackorderCancelled { orderid, .. } => format!("x{orderid}"),
        };
        product.take_events().into_iter().map(tell).collect()
    }

    /// U7, U9.
    #[test]
    fn the_warehouse_is_preferred_to_ships() {
        let mut product = product(&[("ship", 100, Some(TOMORROW)), ("warehouse", 100, None)]);
        ask(&mut product, "o1", 10);
        assert_eq!((available(&product, "warehouse"), available(&product, "ship")), (90, 100));
        assert_eq!(sits_in(&product, "o1").as_deref(), Some("warehouse"));
    }

    /// U8.
    #[test]
    fn the_earliest_ship_is_preferred() {
        let batches =
            [("medium", 100, Some(TOMORROW)), ("earliest", 100, Some(TODAY)), ("latest", 100, Some(LATER))];
        let mut product = product(&batches);
        ask(&mut product, "o1", 10);
        let left = ["earliest", "medium", "latest"].map(|reference| available(&product, reference));
        assert_eq!(left, [90, 100, 100]);
    }

    /// U10, U12: the version of the book is our sequence; it moves with every event.
    #[test]
    fn an_allocation_is_told_with_its_batch_and_the_next_sequence() {
        let mut product = product(&[("b", 100, None)]);
        ask(&mut product, "o1", 10);
        ask(&mut product, "o2", 1);
        let events = product.take_events();
        assert_eq!(events.iter().map(|event| event.sequence).collect::<Vec<_>>(), [Some(1), Some(2)]);
        let told = serde_json::to_string(&events[0].event).unwrap();
        assert_eq!(told, r#"{"orderid":"o1","sku":"OAK-STOOL","qty":10,"batchref":"b"}"#);
    }

    /// U6.
    #[test]
    fn the_same_line_again_changes_nothing() {
        let mut product = product(&[("b", 20, None)]);
        ask(&mut product, "o1", 2);
        story(&mut product);
        let before = product.clone();
        ask(&mut product, "o1", 2);
        assert_eq!(product, before);
    }

    #[test]
    fn the_same_line_with_another_quantity_is_rejected_and_changes_nothing() {
        let mut product = product(&[("b", 20, None)]);
        ask(&mut product, "o1", 2);
        let before = product.clone();
        let rejected = product.allocate(&order("o1"), Quantity::new(3u32).unwrap()).unwrap_err();
        assert_eq!(rejected.to_string(), "order o1 already has a line of 2 OAK-STOOL; it cannot become 3");
        assert_eq!(product, before);
    }

    /// U11, R3.
    #[test]
    fn a_line_that_fits_nowhere_waits_and_is_told_out_of_stock() {
        let mut product = product(&[("b", 10, Some(TODAY))]);
        ask(&mut product, "o1", 10);
        ask(&mut product, "o2", 1);
        assert_eq!(story(&mut product), ["+o1@b", "?o2"]);
        assert_eq!((sits_in(&product, "o2"), product.backordered()), (None, 1));
    }

    /// R6.
    #[test]
    fn a_full_batch_is_followed_by_the_next_one() {
        let mut product = product(&[("first", 10, Some(TODAY)), ("second", 10, Some(TOMORROW))]);
        ask(&mut product, "o1", 10);
        ask(&mut product, "o2", 10);
        assert_eq!(story(&mut product), ["+o1@first", "+o2@second"]);
    }

    /// R2.
    #[test]
    fn taking_back_a_line_that_is_not_there_changes_nothing() {
        let mut product = product(&[("b", 20, None)]);
        ask(&mut product, "o1", 2);
        let before = product.clone();
        product.deallocate(&order("o2"));
        assert_eq!(product, before);
    }

    /// R8.
    #[test]
    fn a_line_taken_back_makes_room_for_the_oldest_that_fits() {
        let mut product = product(&[("b", 10, None)]);
        for (name, quantity) in [("o1", 10), ("large", 11), ("older", 6), ("newer", 6), ("small", 4)] {
            ask(&mut product, name, quantity);
        }
        story(&mut product);
        product.deallocate(&order("o1"));
        product.allocate_waiting();
        assert_eq!(story(&mut product), ["-o1@b", "+older@b", "+small@b"]);
        assert_eq!(product.backordered(), 17);
    }

    #[test]
    fn a_waiting_line_taken_back_is_gone_without_a_published_event() {
        let mut product = product(&[("b", 1, None)]);
        ask(&mut product, "o1", 5);
        product.deallocate(&order("o1"));
        let events = product.take_events();
        assert_eq!(events.last().unwrap().sequence, None);
        assert_eq!(product.backordered(), 0);
        assert!(product.line(&order("o1")).is_none());
        assert!(product.changes().removed_lines.is_empty(), "it was never stored");
    }

    /// U19.
    #[test]
    fn a_changed_quantity_changes_what_is_available() {
        let mut product = product(&[("b", 100, None)]);
        change(&mut product, "b", 50);
        assert_eq!(available(&product, "b"), 50);
        assert_eq!(story(&mut product), [""; 0]);
    }

    /// U20, R9: but it is the newest line that leaves, not any.
    #[test]
    fn a_shrunken_batch_gives_its_newest_lines_to_others() {
        let mut product = product(&[("b1", 50, None), ("b2", 50, Some(TODAY))]);
        ask(&mut product, "o1", 20);
        ask(&mut product, "o2", 20);
        story(&mut product);
        change(&mut product, "b1", 25);
        assert_eq!((available(&product, "b1"), available(&product, "b2")), (5, 30));
        assert_eq!(story(&mut product), ["-o2@b1", "+o2@b2"]);
    }

    #[test]
    fn lines_leave_newest_first_and_are_placed_oldest_first() {
        let mut product = product(&[("b1", 30, None)]);
        for name in ["o1", "o2", "o3"] {
            ask(&mut product, name, 10);
        }
        story(&mut product);
        change(&mut product, "b1", 9);
        assert_eq!(story(&mut product), ["-o3@b1", "-o2@b1", "-o1@b1"]);
        let later = Batch::new(batchref("b2"), StockQuantity::new(20u32).unwrap(), None);
        product.add_batch(later).unwrap();
        product.allocate_waiting();
        product.emit_if_backordered(&order("o1"));
        product.emit_if_backordered(&order("o3"));
        assert_eq!(story(&mut product), ["+o1@b2", "+o2@b2", "?o3"]);
    }

    #[test]
    fn a_line_keeps_its_place_when_it_is_displaced() {
        let mut product = product(&[("b", 10, None)]);
        ask(&mut product, "old", 10);
        ask(&mut product, "new", 10);
        change(&mut product, "b", 0);
        story(&mut product);
        change(&mut product, "b", 10);
        assert_eq!(story(&mut product), ["+old@b"]);
    }

    #[test]
    fn a_stale_revision_is_skipped() {
        let mut product = product(&[("b", 10, None)]);
        product.change_batch_quantity(&batchref("b"), StockQuantity::new(7u32).unwrap(), Some(2)).unwrap();
        let before = product.clone();
        product.change_batch_quantity(&batchref("b"), StockQuantity::new(99u32).unwrap(), Some(2)).unwrap();
        assert_eq!(product, before);
    }

    #[test]
    fn the_same_batch_again_changes_nothing_even_after_its_quantity_did() {
        let mut product = product(&[("b", 10, Some(TODAY))]);
        change(&mut product, "b", 5);
        let before = product.clone();
        let batch =
            |quantity: u32, eta| Batch::new(batchref("b"), StockQuantity::new(quantity).unwrap(), eta);
        product.add_batch(batch(10, Some(TODAY))).unwrap();
        assert_eq!(product.add_batch(batch(5, Some(TODAY))), Err(Rejection::BatchMismatch(batchref("b"))));
        assert_eq!(product.add_batch(batch(10, None)), Err(Rejection::BatchMismatch(batchref("b"))));
        assert_eq!(product, before);
    }

    #[test]
    fn what_memory_knows_is_newer_than_what_the_store_says() {
        let mut product = Product::from_stored(Sku::new("OAK-STOOL").unwrap(), 3, 7, 2, 0);
        let in_batch =
            |position| Line { quantity: Quantity::new(5u32).unwrap(), position, batch: Some(batchref("b")) };
        product.attach_batch(Batch::from_stored(batchref("b"), None, 10, 10, 10, None));
        product.attach_line(order("o1"), in_batch(1));
        product.deallocate(&order("o1"));
        product.attach_line(order("o1"), in_batch(1));
        product.attach_batch(Batch::from_stored(batchref("b"), None, 10, 10, 10, None));
        assert_eq!(available(&product, "b"), 5);
        assert!(product.line(&order("o1")).is_none());
        assert_eq!(product.changes().removed_lines, [&order("o1")]);
        assert_eq!(product.known_lines().collect::<Vec<_>>(), [&order("o1")]);
    }
}

//! One transaction in memory: what was loaded, what changed, what happened.
//!
//! Handlers change products here; nothing reaches the store before [`UnitOfWork::commit`], which consumes the unit
//! of work. Dropping it instead is the rollback.

use std::collections::HashMap;

use crate::{
    domain::{OrderId, Product, RecordedEvent, Reference, Rejection, Sku},
    ports::store::{Footprint, OutboxEvent, Receipt, Sight, Store, StoreError, Tx, ViewRow, ViewState, Work},
};

use super::decode::Envelope;

/// The aggregates at hand and everything that is to be kept about them.
pub struct UnitOfWork {
    tx: Box<dyn Tx>,
    products: HashMap<Sku, Product>,
    /// Products handed to a handler since their events were last collected.
    touched: Vec<Sku>,
    /// One row per line: what was said last counts.
    view: HashMap<(OrderId, Sku), ViewState>,
    events: Vec<OutboxEvent>,
    unhandled: Vec<std::sync::Arc<str>>,
}

impl UnitOfWork {
    /// Begins a transaction.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if none can be had now.
    pub async fn begin(store: &dyn Store) -> Result<Self, StoreError> {
        Ok(Self {
            tx: store.begin().await?,
            products: HashMap::new(),
            touched: Vec::new(),
            view: HashMap::new(),
            events: Vec::new(),
            unhandled: Vec::new(),
        })
    }

    /// Enters messages in the inbox: which of them are new?
    pub(super) async fn first_sights(
        &mut self,
        queue: &str,
        receipts: &[Receipt],
    ) -> Result<Vec<Sight>, StoreError> {
        self.tx.first_sights(queue, receipts).await
    }

    /// Loads and holds what commands will need.
    pub(super) async fn load(&mut self, footprint: &Footprint) -> Result<(), StoreError> {
        let products = self.tx.load_products(footprint).await?;
        self.products.extend(
            products
                .into_iter()
                .map(|product| (product.sku().clone(), product)),
        );
        Ok(())
    }

    /// The product of a SKU that exists.
    pub(super) fn product(&mut self, sku: &Sku) -> Result<&mut Product, Rejection> {
        self.touched.push(sku.clone());
        self.products
            .get_mut(sku)
            .ok_or_else(|| Rejection::InvalidSku(sku.clone()))
    }

    /// The product of a SKU, new if nobody has heard of it.
    pub(super) fn product_or_new(&mut self, sku: &Sku) -> &mut Product {
        self.touched.push(sku.clone());
        self.products
            .entry(sku.clone())
            .or_insert_with(|| Product::new(sku.clone()))
    }

    /// Which product a batch belongs to.
    pub(super) fn sku_of_batch(&self, reference: &Reference) -> Option<&Sku> {
        self.products
            .values()
            .find(|product| product.batch(reference).is_some())
            .map(Product::sku)
    }

    /// Sees to it that a product knows all waiting lines which its available stock may reach.
    pub(super) async fn reach_waiting_lines(&mut self, sku: &Sku) -> Result<(), StoreError> {
        match self.products.get_mut(sku) {
            Some(product) if product.misses_waiting_lines() => self.tx.learn_waiting_lines(product).await,
            _ => Ok(()),
        }
    }

    /// Sees to it that a product knows a batch's newest lines, as far as `units` reaches.
    pub(super) async fn reach_newest_lines(
        &mut self,
        sku: &Sku,
        batch: &Reference,
        units: u32,
    ) -> Result<(), StoreError> {
        match self.products.get_mut(sku) {
            Some(product) if units > 0 => self.tx.learn_newest_lines(product, batch, units).await,
            _ => Ok(()),
        }
    }

    /// Says what the read model is to show of a line.
    pub(super) fn show(&mut self, orderid: OrderId, sku: Sku, state: ViewState) {
        self.view.insert((orderid, sku), state);
    }

    /// Takes the events that the last handler caused, and puts the public ones in the outbox.
    pub(super) fn collect_events(&mut self, cause: &Envelope) -> Vec<RecordedEvent> {
        let mut collected = Vec::new();
        for sku in std::mem::take(&mut self.touched) {
            if let Some(product) = self.products.get_mut(&sku) {
                collected.extend(product.take_events());
            }
        }
        self.events
            .extend(collected.iter().filter_map(|recorded| outgoing(recorded, cause)));
        collected
    }

    /// Has the inbox forget a message that was not handled.
    pub(super) fn leave_unhandled(&mut self, receipt: &Receipt) {
        self.unhandled.push(receipt.message_id.clone());
    }

    /// Keeps everything, or nothing.
    ///
    /// # Errors
    /// As [`Tx::commit`].
    pub(super) async fn commit(self) -> Result<(), StoreError> {
        let mut products: Vec<_> = self.products.into_values().filter(Product::is_changed).collect();
        products.sort_unstable_by(|one, other| one.sku().cmp(other.sku()));
        let view = self
            .view
            .into_iter()
            .map(|((orderid, sku), state)| ViewRow { orderid, sku, state })
            .collect();
        self.tx
            .commit(Work {
                products,
                view,
                events: self.events,
                unhandled: self.unhandled,
            })
            .await
    }

    /// Ends the transaction at once, without a trace.
    pub(super) async fn rollback(self) {
        self.tx.rollback().await;
    }
}

fn outgoing(recorded: &RecordedEvent, cause: &Envelope) -> Option<OutboxEvent> {
    Some(OutboxEvent {
        sku: recorded.event.sku().clone(),
        sequence: recorded.sequence?,
        name: recorded.event.public_name()?,
        body: serde_json::to_string(&recorded.event).expect("an event of strings and numbers is always JSON"),
        causation_id: cause.receipt.message_id.clone(),
        correlation_id: cause.correlation_id.clone(),
        traceparent: cause.traceparent.clone(),
    })
}

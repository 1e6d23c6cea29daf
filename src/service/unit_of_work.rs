//! One transaction in memory: what was loaded, what changed, what happened.
//!
//! Handlers change products here; nothing reaches the store before [`UnitOfWork::commit`], which consumes the unit
//! of work. Dropping it instead is the rollback.

use std::{collections::HashMap, sync::Arc, time::Duration};

use sha2::{Digest, Sha256};

use crate::{
    domain::{BatchRef, FailedMessageKey, MessageKey, OrderId, Product, RecordedEvent, Rejection, Sku},
    ports::{
        error::{StoreError, error_chain, error_text},
        failed_messages::{NewAttempt, RetryDecision},
        queue::{Message, QueueName, RetryMark},
        store::{
            ChangeSet, InboxCheck, OutboxEvent, ReadModelRow, ReadModelState, RetryCheck, Store, Tx,
            WorkingSet,
        },
        text::sanitize,
    },
};

use super::{
    decode::Envelope,
    failure::{Failure, decide},
    message_bus::FailurePolicy,
};

/// A message that failed, and how.
pub(super) struct FailureRecord<'a> {
    pub(super) key: FailedMessageKey,
    pub(super) message: &'a Message,
    /// 0 for a message from a sender.
    pub(super) generation: i64,
    pub(super) failure: &'a Failure,
    pub(super) took: Duration,
}

/// The aggregates at hand and everything that is to be kept about them.
pub struct UnitOfWork {
    tx: Box<dyn Tx>,
    queue: QueueName,
    products: HashMap<Sku, Product>,
    /// Products handed to a handler since their events were last collected.
    touched: Vec<Sku>,
    /// One row per line: what was said last counts.
    view: HashMap<(OrderId, Sku), ReadModelState>,
    events: Vec<OutboxEvent>,
    handled: Vec<Arc<str>>,
    unhandled: Vec<Arc<str>>,
    failures: Vec<NewAttempt>,
    ended: Vec<Arc<str>>,
}

impl UnitOfWork {
    /// Begins a transaction about messages of `queue`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if none can be had now.
    pub async fn begin(store: &dyn Store, queue: QueueName) -> Result<Self, StoreError> {
        Ok(Self {
            tx: store.begin(queue).await?,
            queue,
            products: HashMap::new(),
            touched: Vec::new(),
            view: HashMap::new(),
            events: Vec::new(),
            handled: Vec::new(),
            unhandled: Vec::new(),
            failures: Vec::new(),
            ended: Vec::new(),
        })
    }

    /// Enters messages in the inbox: which of them are new?
    pub(super) async fn check_inbox(&mut self, keys: &[MessageKey]) -> Result<Vec<InboxCheck>, StoreError> {
        if keys.is_empty() { Ok(Vec::new()) } else { self.tx.check_inbox(keys).await }
    }

    /// Whether copies with retry marks are current.
    pub(super) async fn check_retries(&mut self, marks: &[RetryMark]) -> Result<Vec<RetryCheck>, StoreError> {
        if marks.is_empty() { Ok(Vec::new()) } else { self.tx.check_retries(marks).await }
    }

    /// Loads and holds what commands will need.
    pub(super) async fn load(&mut self, working_set: &WorkingSet) -> Result<(), StoreError> {
        if *working_set == WorkingSet::default() {
            return Ok(());
        }
        let products = self.tx.load_products(working_set).await?;
        self.products.extend(products.into_iter().map(|product| (product.sku().clone(), product)));
        Ok(())
    }

    /// The product of a SKU that exists.
    pub(super) fn product(&mut self, sku: &Sku) -> Result<&mut Product, Rejection> {
        self.touched.push(sku.clone());
        self.products.get_mut(sku).ok_or_else(|| Rejection::InvalidSku(sku.clone()))
    }

    /// The product of a SKU, new if nobody has heard of it.
    pub(super) fn product_or_new(&mut self, sku: &Sku) -> &mut Product {
        self.touched.push(sku.clone());
        self.products.entry(sku.clone()).or_insert_with(|| Product::new(sku.clone()))
    }

    /// Which product a batch belongs to.
    pub(super) fn sku_of_batch(&self, reference: &BatchRef) -> Option<&Sku> {
        self.products.values().find(|product| product.batch(reference).is_some()).map(Product::sku)
    }

    /// Sees to it that a product knows all waiting lines which its available stock may reach.
    pub(super) async fn ensure_waiting_lines(&mut self, sku: &Sku) -> Result<(), StoreError> {
        match self.products.get_mut(sku) {
            Some(product) if product.needs_waiting_lines() => self.tx.load_waiting_lines(product).await,
            _ => Ok(()),
        }
    }

    /// Sees to it that a product knows a batch's newest lines, as far as `units` reaches.
    pub(super) async fn ensure_newest_lines(
        &mut self,
        sku: &Sku,
        batch: &BatchRef,
        units: u32,
    ) -> Result<(), StoreError> {
        match self.products.get_mut(sku) {
            Some(product) if units > 0 => self.tx.load_newest_lines(product, batch, units).await,
            _ => Ok(()),
        }
    }

    /// Says what the read model is to show of a line.
    pub(super) fn show(&mut self, orderid: OrderId, sku: Sku, state: ReadModelState) {
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
        self.events.extend(collected.iter().filter_map(|recorded| outgoing(recorded, cause)));
        collected
    }

    /// Notes that a message was handled: what the ledger has of it is resolved.
    pub(super) fn mark_handled(&mut self, key: &MessageKey) {
        self.handled.push(key.message_id.clone());
    }

    /// Has the inbox forget a message that was not handled.
    pub(super) fn forget(&mut self, key: &MessageKey) {
        self.unhandled.push(key.message_id.clone());
    }

    /// Notes that a redelivered message did not kill its worker.
    pub(super) fn clear_starts(&mut self, key: &MessageKey) {
        self.ended.push(key.message_id.clone());
    }

    /// Puts failed messages into the ledger and says what follows for each.
    pub(super) async fn record_failures(
        &mut self,
        failed: &[FailureRecord<'_>],
        policy: &FailurePolicy,
    ) -> Result<Vec<RetryDecision>, StoreError> {
        if failed.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<_> = failed.iter().map(|failed| failed.key.clone()).collect();
        let before = self.tx.failed_attempts(&keys).await?;
        for (failed, before) in failed.iter().zip(before) {
            self.failures.push(failed_attempt(self.queue, failed, before + 1, policy));
        }
        let recorded = &self.failures[self.failures.len() - failed.len()..];
        Ok(recorded.iter().map(|attempt| attempt.next).collect())
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
            .map(|((orderid, sku), state)| ReadModelRow { orderid, sku, state })
            .collect();
        let (events, handled, unhandled) = (self.events, self.handled, self.unhandled);
        let (failures, ended) = (self.failures, self.ended);
        self.tx.commit(ChangeSet { products, view, events, handled, unhandled, failures, ended }).await
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
        causation_id: cause.key.message_id.clone(),
        correlation_id: cause.correlation_id.clone(),
        traceparent: cause.traceparent.clone(),
    })
}

fn failed_attempt(
    queue: QueueName,
    failed: &FailureRecord<'_>,
    attempts: u32,
    policy: &FailurePolicy,
) -> NewAttempt {
    let FailureRecord { key, message, generation, failure, took } = failed;
    let next = decide(failure, attempts, &policy.retry);
    let reason = match next {
        RetryDecision::Dead(reason) => reason.as_str(),
        RetryDecision::Retry(_) => "",
    };
    let error_pattern = sanitize(&failure.error_pattern());
    NewAttempt {
        key: key.clone(),
        generation: *generation,
        error_group: group(&[queue.as_str(), &key.kind, reason, &error_pattern]),
        body: message.body.clone(),
        properties: message.original.as_ref().map_or_else(|| "{}".into(), |original| original.to_json()),
        original: message.original.as_ref().map(|original| original.to_bytes()).unwrap_or_default(),
        error: error_text(*failure),
        error_pattern,
        chain: error_chain(*failure),
        attempts,
        duration: *took,
        host: policy.host.clone(),
        next,
    }
}

/// A short name for what these have in common.
fn group(parts: &[&str]) -> String {
    let digest = Sha256::digest(parts.join("\n"));
    format!("{:08x}", u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]))
}

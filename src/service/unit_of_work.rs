//! One transaction in memory: loaded products, changes, events, failures.
//!
//! Handlers change products here; nothing is written before [`UnitOfWork::commit`], which consumes the unit of work.
//! Dropping it is the rollback.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use crate::{
    domain::{
        BatchRef, MessageKey, NewAttempt, OrderId, OrderingKey, Product, RecordedEvent, Rejection,
        RetryDecision, Sku,
    },
    ports::{
        answered::{Answered, MissingAnswers},
        error::StoreError,
        queue::{QueueName, RetryMark},
        store::{
            ChangeSet, InboxCheck, LockMode, OrderCheck, OrderedMessage, OutboxEvent, Overtaking,
            ReadModelRow, ReadModelState, RetryCheck, Store, Tx,
        },
    },
};

use super::{
    attempt::{FailureRecord, in_ascii, new_attempt},
    batch_handler::HandleError,
    envelope::Envelope,
    failure::Failure,
    outcome::AttemptRecord,
    policy::FailurePolicy,
};

/// Why a question to the store has no answer.
#[derive(Debug)]
pub(super) enum QueryError {
    Store(StoreError),
    /// The store did not answer for each message.
    Missing(MissingAnswers),
}

impl From<StoreError> for QueryError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<MissingAnswers> for QueryError {
    fn from(missing: MissingAnswers) -> Self {
        Self::Missing(missing)
    }
}

impl From<QueryError> for HandleError {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Store(error) => error.into(),
            QueryError::Missing(missing) => missing.into(),
        }
    }
}

/// Why a unit of work was rolled back.
#[derive(Debug)]
pub(super) enum UnitOfWorkError {
    Failed(HandlingFailure),
    /// The store did not answer for each message.
    Missing(MissingAnswers),
}

/// A failure that one of the messages, or the store, caused.
#[derive(Clone, Debug)]
pub(super) struct HandlingFailure {
    pub(super) failure: Failure,
    /// How long the handler that failed had taken, if it was a handler.
    pub(super) took: Duration,
}

impl<T: Into<Failure>> From<T> for HandlingFailure {
    fn from(failure: T) -> Self {
        Self { failure: failure.into(), took: Duration::ZERO }
    }
}

impl From<HandlingFailure> for UnitOfWorkError {
    fn from(failed: HandlingFailure) -> Self {
        Self::Failed(failed)
    }
}

impl From<StoreError> for UnitOfWorkError {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<QueryError> for UnitOfWorkError {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Store(error) => error.into(),
            QueryError::Missing(missing) => Self::Missing(missing),
        }
    }
}

/// Loaded products, and everything that the commit will write.
pub struct UnitOfWork {
    pub(super) tx: Box<dyn Tx>,
    queue: QueueName,
    pub(super) products: HashMap<Sku, Product>,
    /// Products handed to a handler since their events were last collected.
    touched: Vec<Sku>,
    /// One row per line; the last one counts.
    view: HashMap<(OrderId, Sku), ReadModelState>,
    events: Vec<OutboxEvent>,
    handled: Vec<Arc<str>>,
    unhandled: Vec<Arc<str>>,
    overtakings: Vec<Overtaking>,
    failures: Vec<NewAttempt>,
    released: BTreeSet<OrderingKey>,
    ended: Vec<Arc<str>>,
    /// The events since [`Self::observe`], also those that are not published; only in a dry run.
    observed: Option<Vec<RecordedEvent>>,
}

impl UnitOfWork {
    /// Begins a transaction about messages of `queue`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if none can be had now.
    pub async fn begin(store: &dyn Store, queue: QueueName, locks: LockMode) -> Result<Self, StoreError> {
        Ok(Self {
            tx: store.begin_with(queue, locks).await?,
            queue,
            products: HashMap::new(),
            touched: Vec::new(),
            view: HashMap::new(),
            events: Vec::new(),
            handled: Vec::new(),
            unhandled: Vec::new(),
            overtakings: Vec::new(),
            failures: Vec::new(),
            released: BTreeSet::new(),
            ended: Vec::new(),
            observed: None,
        })
    }

    /// Enters messages in the inbox and returns which of them are new.
    pub(super) async fn check_inbox(
        &mut self,
        keys: Vec<MessageKey>,
    ) -> Result<Answered<MessageKey, InboxCheck>, QueryError> {
        let checks = if keys.is_empty() { Vec::new() } else { self.tx.check_inbox(&keys).await? };
        Ok(Answered::new(keys, checks)?)
    }

    /// Returns which copies of failed messages are current.
    pub(super) async fn check_retries(
        &mut self,
        marks: Vec<RetryMark>,
    ) -> Result<Answered<RetryMark, RetryCheck>, QueryError> {
        let checks = if marks.is_empty() { Vec::new() } else { self.tx.check_retries(&marks).await? };
        Ok(Answered::new(marks, checks)?)
    }

    /// Returns the places of commands in the order of their keys, one for each.
    pub(super) async fn check_order(
        &mut self,
        messages: &[OrderedMessage],
    ) -> Result<Vec<OrderCheck>, StoreError> {
        if messages.is_empty() { Ok(Vec::new()) } else { self.tx.check_order(messages).await }
    }

    /// The product of a SKU that exists.
    pub(super) fn product(&mut self, sku: &Sku) -> Result<&mut Product, Rejection> {
        self.touched.push(sku.clone());
        self.products.get_mut(sku).ok_or_else(|| Rejection::InvalidSku(sku.clone()))
    }

    /// The product of a SKU, a new one if there is none.
    pub(super) fn product_or_new(&mut self, sku: &Sku) -> &mut Product {
        self.touched.push(sku.clone());
        self.products.entry(sku.clone()).or_insert_with(|| Product::new(sku.clone()))
    }

    /// The product that a batch belongs to.
    pub(super) fn sku_of_batch(&self, reference: &BatchRef) -> Option<&Sku> {
        self.products.values().find(|product| product.batch(reference).is_some()).map(Product::sku)
    }

    /// Sets what the read model shows of a line.
    pub(super) fn show(&mut self, orderid: OrderId, sku: Sku, state: ReadModelState) {
        self.view.insert((orderid, sku), state);
    }

    /// Takes the events of the last handler.
    pub(super) fn collect_events(&mut self) -> Vec<RecordedEvent> {
        let mut collected = Vec::new();
        for sku in std::mem::take(&mut self.touched) {
            if let Some(product) = self.products.get_mut(&sku) {
                collected.extend(product.take_events());
            }
        }
        collected
    }

    /// Adds an event to the outbox, if it is public.
    pub(super) fn publish(&mut self, recorded: &RecordedEvent, cause: &Envelope) {
        if let Some(observed) = &mut self.observed {
            observed.push(recorded.clone());
        }
        self.events.extend(outgoing(recorded, cause));
    }

    /// Observes the events of the next command.
    pub(super) fn observe(&mut self) {
        self.observed = Some(Vec::new());
    }

    /// The observed events.
    pub(super) fn take_observed(&mut self) -> Vec<RecordedEvent> {
        self.observed.take().unwrap_or_default()
    }

    /// Marks a message as handled: its failed message, if there is one, is resolved.
    pub(super) fn mark_handled(&mut self, key: &MessageKey) {
        self.handled.push(key.message_id.clone());
    }

    /// Removes a message that was not handled from the inbox.
    pub(super) fn forget(&mut self, key: &MessageKey) {
        self.unhandled.push(key.message_id.clone());
    }

    /// Notes that a command was handled after dead messages with its key.
    pub(super) fn overtake(&mut self, overtaking: Overtaking) {
        self.overtakings.push(overtaking);
    }

    /// The next message with this key, if it waits, is tried: the one before it may have ended.
    pub(super) fn release(&mut self, key: OrderingKey) {
        self.released.insert(key);
    }

    /// Clears the recorded starts of a message that did not crash its worker.
    pub(super) fn clear_starts(&mut self, key: &MessageKey) {
        self.ended.push(key.message_id.clone());
    }

    /// Adds failed attempts and decides for each whether it is retried.
    pub(super) async fn record_failures<'a>(
        &mut self,
        failed: Vec<FailureRecord<'a>>,
        policy: &FailurePolicy,
    ) -> Result<Answered<FailureRecord<'a>, AttemptRecord>, QueryError> {
        let keys: Vec<_> = failed.iter().map(|failed| failed.key.clone()).collect();
        let before = if keys.is_empty() { Vec::new() } else { self.tx.failed_attempts(&keys).await? };
        let mut records = Vec::with_capacity(failed.len());
        let failed = Answered::new(failed, before)?;
        for (failed, before) in &failed {
            records.push(self.add_failure(new_attempt(self.queue, failed, *before, policy)));
        }
        let failed = failed.into_iter().map(|(failed, _)| failed).collect();
        Ok(Answered::new(failed, records)?)
    }

    /// Adds the failed attempt of a message with a value that the store rejects, with every text in ASCII. The caller has
    /// not looked the message up: its id may be such a value.
    pub(super) fn record_in_ascii(
        &mut self,
        failed: &FailureRecord<'_>,
        policy: &FailurePolicy,
    ) -> AttemptRecord {
        self.add_failure(in_ascii(new_attempt(self.queue, failed, 0, policy)))
    }

    /// A dead message holds up no other one.
    fn add_failure(&mut self, attempt: NewAttempt) -> AttemptRecord {
        let NewAttempt { next: decision, attempts, .. } = attempt;
        if let (RetryDecision::Dead(_), Some(key)) = (decision, &attempt.ordering_key) {
            self.released.insert(key.clone());
        }
        let record = AttemptRecord { decision, attempts, error_group: attempt.error_group.clone() };
        self.failures.push(attempt);
        record
    }

    /// Commits if the work succeeded, and rolls back otherwise.
    pub(super) async fn finish<T>(self, worked: Result<T, UnitOfWorkError>) -> Result<T, UnitOfWorkError> {
        match worked {
            Ok(result) => {
                self.commit().await?;
                Ok(result)
            }
            Err(error) => {
                self.tx.rollback().await;
                Err(error)
            }
        }
    }

    /// Writes everything in one commit.
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
        let changes = ChangeSet {
            products,
            view,
            events: self.events,
            handled: self.handled,
            unhandled: self.unhandled,
            overtakings: self.overtakings,
            failures: self.failures,
            released: self.released.into_iter().collect(),
            ended: self.ended,
        };
        self.tx.commit(changes).await
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
        tracestate: cause.tracestate.clone(),
    })
}

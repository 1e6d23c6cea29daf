//! Where aggregates, inbox, outbox and read model are kept, and change together or not at all.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;

use crate::domain::{
    BatchRef, Command, FailedMessageKey, MessageKey, NewAttempt, OrderId, Product, Quantity, Sku,
};

use super::{
    error::StoreError,
    queue::{QueueName, RetryMark},
};

/// What the inbox says of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InboxCheck {
    /// Not handled before; the inbox has it now, as part of this transaction.
    New,
    /// Handled before, with the same type and body.
    Duplicate,
    /// Its id was handled before, with another type or another body.
    BodyMismatch,
}

/// The check of a copy with a retry mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryCheck {
    /// The failed message is retrying, and this is its current copy.
    Current,
    /// The failed message has changed since the copy was published: the copy must not be handled.
    Outdated,
    /// There is no such failed message, or the secret is another one: the mark means nothing.
    Unknown,
}

/// What a set of commands is about: what must be loaded before they can be handled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkingSet {
    /// Products named by their SKU.
    pub skus: BTreeSet<Sku>,
    /// Lines named by order and SKU.
    pub lines: BTreeSet<(Sku, OrderId)>,
    /// Batches named by reference; their products are meant too.
    pub batches: BTreeSet<BatchRef>,
}

impl WorkingSet {
    /// Adds what `command` is about.
    pub fn cover(&mut self, command: &Command) {
        match command {
            Command::CreateBatch(command) => {
                self.skus.insert(command.sku.clone());
                self.batches.insert(command.reference.clone());
            }
            Command::Allocate(command) => self.cover_line(&command.sku, &command.orderid),
            Command::Deallocate(command) => self.cover_line(&command.sku, &command.orderid),
            Command::ChangeBatchQuantity(command) => {
                self.batches.insert(command.reference.clone());
            }
        }
    }

    fn cover_line(&mut self, sku: &Sku, orderid: &OrderId) {
        self.skus.insert(sku.clone());
        self.lines.insert((sku.clone(), orderid.clone()));
    }
}

/// An event on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxEvent {
    /// The product it happened to.
    pub sku: Sku,
    /// Its place in that product's history, without a gap.
    pub sequence: i64,
    /// Its public name.
    pub name: &'static str,
    /// Its JSON.
    pub body: String,
    /// The message id of the command it follows from.
    pub causation_id: Arc<str>,
    /// What ties together everything that follows from one request.
    pub correlation_id: Arc<str>,
    /// The W3C trace the command belongs to, if it said so.
    pub traceparent: Option<Arc<str>>,
}

/// What the read model is to say of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadModelState {
    /// It sits in a batch.
    Allocated(Quantity, BatchRef),
    /// It waits.
    Backordered(Quantity),
    /// There is no such line.
    Removed,
}

/// One row of the read model, keyed by line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadModelRow {
    /// The order.
    pub orderid: OrderId,
    /// The product.
    pub sku: Sku,
    /// What is to be read of the line.
    pub state: ReadModelState,
}

/// Everything a unit of work changes, to be kept in one commit.
#[derive(Debug, Default)]
pub struct ChangeSet {
    /// Products that changed, each with its changes.
    pub products: Vec<Product>,
    /// The read model's new rows, each line once.
    pub view: Vec<ReadModelRow>,
    /// Events in the order in which they happened.
    pub events: Vec<OutboxEvent>,
    /// Ids of messages that were handled: their failed messages are resolved.
    pub handled: Vec<Arc<str>>,
    /// Ids of messages the inbox took for first deliveries but which were not handled: it is to forget them.
    pub unhandled: Vec<Arc<str>>,
    /// Failed attempts, to be recorded.
    pub failures: Vec<NewAttempt>,
    /// Messages whose starts were counted and which have ended, one way or another.
    pub ended: Vec<Arc<str>>,
}

/// Begins transactions.
#[async_trait]
pub trait Store: Send + Sync {
    /// Begins a transaction about messages of `queue`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if none can be had now.
    async fn begin(&self, queue: QueueName) -> Result<Box<dyn Tx>, StoreError>;

    /// Whether it answers.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if it does not.
    async fn probe(&self) -> Result<(), StoreError>;

    /// How often messages were started without an end, in the order given.
    async fn unfinished_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<Vec<u32>, StoreError>;

    /// Counts a start of each of the messages, in a transaction of its own that is over when this returns.
    async fn record_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<(), StoreError>;

    /// Takes back one start of each of the messages: they are given back by a process that did not crash.
    async fn revert_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<(), StoreError>;
}

/// A transaction: reads, and one write that ends it. Dropping it undoes it.
///
/// After an error only [`Tx::rollback`] makes sense.
#[async_trait]
pub trait Tx: Send {
    /// Enters messages in the inbox and says which were there. Waits for a concurrent transaction that has entered
    /// one of them. No id may occur twice in `receipts`.
    async fn check_inbox(&mut self, keys: &[MessageKey]) -> Result<Vec<InboxCheck>, StoreError>;

    /// Whether copies with retry marks are current, in the order given. Holds their failed messages until the end of the
    /// transaction, so that an operator's action comes either before or after it.
    async fn check_retries(&mut self, marks: &[RetryMark]) -> Result<Vec<RetryCheck>, StoreError>;

    /// The counted attempts of messages that are retrying, in the order given; 0 for any other.
    async fn failed_attempts(&mut self, keys: &[FailedMessageKey]) -> Result<Vec<u32>, StoreError>;

    /// Loads the products in the footprint and holds them against others until the end of the transaction, in SKU
    /// order, so that two transactions never wait for each other. Each knows its batches that have something
    /// available, the named ones, the named lines and their batches. What does not exist is left out.
    async fn load_products(&mut self, working_set: &WorkingSet) -> Result<Vec<Product>, StoreError>;

    /// Tells a loaded product of its waiting lines, as far as what is available in its batches may reach: of each
    /// quantity that fits somewhere, the oldest, as many as fit. The cost is bounded by the available stock.
    async fn load_waiting_lines(&mut self, product: &mut Product) -> Result<(), StoreError>;

    /// Tells a loaded product of a batch's newest lines, so many that together with the known ones they hold at
    /// least `units`.
    async fn load_newest_lines(
        &mut self,
        product: &mut Product,
        batch: &BatchRef,
        units: u32,
    ) -> Result<(), StoreError>;

    /// Keeps all of the work and ends the transaction.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] and [`StoreError::CommitUnknown`] leave open whether it was kept; after any other error
    /// nothing was.
    async fn commit(self: Box<Self>, work: ChangeSet) -> Result<(), StoreError>;

    /// Ends the transaction at once without a trace.
    async fn rollback(self: Box<Self>);
}

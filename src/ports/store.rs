//! The store: aggregates, inbox, outbox and read model, changed in one transaction.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;

use crate::domain::{
    Batch, BatchRef, BatchSearch, Command, FailedMessageKey, MessageKey, NewAttempt, OrderId, OrderingKey,
    Product, Quantity, Sku, StatusKind,
};

use super::{
    error::StoreError,
    queue::{QueueName, RetryMark},
};

/// The state of a message in the inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InboxCheck {
    /// Not handled before. This transaction has added it.
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
    /// There is no such failed message, or the secret differs: the mark has no meaning.
    Unknown,
}

/// A command, and the key in whose order it must be handled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderedMessage {
    /// The message.
    pub message: MessageKey,
    /// The line or the batch that it is about.
    pub key: OrderingKey,
}

/// What the failed messages with a command's ordering key say about its turn. A message is earlier if it failed first
/// before the command did; every failed message is earlier than a command that has not failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OrderCheck {
    /// The failed message of the command itself, in any status.
    pub own: Option<OwnFailedMessage>,
    /// Whether an earlier message is retrying or waiting. It stays so until the end of the transaction.
    pub is_behind: bool,
    /// Whether an earlier message is dead or discarded.
    pub overtakes: bool,
}

/// The failed message of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnFailedMessage {
    /// Its id.
    pub id: i64,
    /// Its status.
    pub status: StatusKind,
    /// Its counted attempts.
    pub attempts: u32,
    /// Whether a later command with its key was handled while it was dead or discarded.
    pub overtaken: bool,
}

/// A handled command with earlier dead or discarded messages of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overtaking {
    /// The line or the batch.
    pub key: OrderingKey,
    /// The message id of the command.
    pub message_id: Arc<str>,
    /// Its own failed message: later ones are not overtaken.
    pub own: Option<i64>,
}

/// What must be loaded before a set of commands can be handled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkingSet {
    /// Products, by SKU.
    pub skus: BTreeSet<Sku>,
    /// Lines, by SKU and order.
    pub lines: BTreeSet<(Sku, OrderId)>,
    /// Batches, by reference; they include their products.
    pub batches: BTreeSet<BatchRef>,
    /// Of these, the ones whose products another session had locked lately: they are not awaited, whatever the [`LockMode`].
    pub locked_lately: LockedRows,
}

impl WorkingSet {
    /// Adds what `command` needs.
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

/// What a transaction does about rows that another session has locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// It waits longer than other transactions of this program usually take: then [`StoreError::Locked`].
    Wait,
    /// It loads no product that is locked, and waits briefly for other rows.
    Skip,
}

/// The products of a working set.
#[derive(Debug, Default)]
pub struct LoadedProducts {
    /// Those that exist, without those that are locked.
    pub products: Vec<Product>,
    /// What another session has locked and was not awaited.
    pub locked: LockedRows,
}

/// What another session has locked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockedRows {
    /// Products, by SKU.
    pub skus: BTreeSet<Sku>,
    /// The batches of the working set that belong to them.
    pub batches: BTreeSet<BatchRef>,
}

impl LockedRows {
    /// Adds what `command` needs.
    pub fn cover(&mut self, command: &Command) {
        match command {
            Command::CreateBatch(command) => _ = self.skus.insert(command.sku.clone()),
            Command::Allocate(command) => _ = self.skus.insert(command.sku.clone()),
            Command::Deallocate(command) => _ = self.skus.insert(command.sku.clone()),
            Command::ChangeBatchQuantity(command) => _ = self.batches.insert(command.reference.clone()),
        }
    }

    /// Whether `command` needs one of them.
    #[must_use]
    pub fn include(&self, command: &Command) -> bool {
        match command {
            Command::CreateBatch(command) => {
                self.skus.contains(&command.sku) || self.batches.contains(&command.reference)
            }
            Command::Allocate(command) => self.skus.contains(&command.sku),
            Command::Deallocate(command) => self.skus.contains(&command.sku),
            Command::ChangeBatchQuantity(command) => self.batches.contains(&command.reference),
        }
    }
}

/// An event to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxEvent {
    /// The SKU.
    pub sku: Sku,
    /// Its sequence number, without gaps.
    pub sequence: i64,
    /// Its type.
    pub name: &'static str,
    /// Its body, JSON.
    pub body: String,
    /// The message id of the command that caused it.
    pub causation_id: Arc<str>,
    /// The correlation id of the command.
    pub correlation_id: Arc<str>,
    /// The W3C trace context of the command.
    pub traceparent: Option<Arc<str>>,
    /// What the systems of that trace add to it.
    pub tracestate: Option<Arc<str>>,
}

/// The state of a line in the read model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadModelState {
    /// Allocated to a batch.
    Allocated(Quantity, BatchRef),
    /// A backorder.
    Backordered(Quantity),
    /// Removed.
    Removed,
}

/// A row of the read model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadModelRow {
    /// The order.
    pub orderid: OrderId,
    /// The SKU.
    pub sku: Sku,
    /// The state of the line.
    pub state: ReadModelState,
}

/// All changes of a unit of work, for one commit.
#[derive(Debug, Default)]
pub struct ChangeSet {
    /// The changed products.
    pub products: Vec<Product>,
    /// The changed rows of the read model, each line once.
    pub view: Vec<ReadModelRow>,
    /// The events, in order.
    pub events: Vec<OutboxEvent>,
    /// The ids of handled messages; their failed messages are resolved.
    pub handled: Vec<Arc<str>>,
    /// The ids of new messages that were not handled; they are removed from the inbox.
    pub unhandled: Vec<Arc<str>>,
    /// Commands that overtake dead or discarded messages, in order. They do not overtake those that are recorded with them.
    pub overtakings: Vec<Overtaking>,
    /// Failed attempts, to be recorded.
    pub failures: Vec<NewAttempt>,
    /// Keys whose failed messages may have ended: of each, the earliest open message is tried if it waits.
    pub released: Vec<OrderingKey>,
    /// The ids of messages with recorded starts whose handling has ended.
    pub ended: Vec<Arc<str>>,
}

/// Begins transactions.
#[async_trait]
pub trait Store: Send + Sync {
    /// Begins a transaction for messages of `queue` that waits for locks.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if there is no connection.
    async fn begin(&self, queue: QueueName) -> Result<Box<dyn Tx>, StoreError> {
        self.begin_with(queue, LockMode::Wait).await
    }

    /// The same, with another behaviour towards locked rows.
    ///
    /// # Errors
    /// As [`Self::begin`].
    async fn begin_with(&self, queue: QueueName, locks: LockMode) -> Result<Box<dyn Tx>, StoreError>;

    /// Whether the store is available.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if it is not.
    async fn probe(&self) -> Result<(), StoreError>;

    /// The number of recorded starts of messages, in the order of `ids`.
    async fn unfinished_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<Vec<u32>, StoreError>;

    /// Records a start of each message, in a transaction of its own that is committed when this returns.
    async fn record_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<(), StoreError>;

    /// Removes one start of each message: this process returns them to the queue and has not crashed.
    async fn revert_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<(), StoreError>;
}

/// A transaction: reads, and one write that ends it. It is rolled back when it is dropped.
///
/// After an error, only [`Tx::rollback`] may be called.
#[async_trait]
pub trait Tx: Send {
    /// Adds messages to the inbox and returns which are new, in the order of `keys`. Waits for a concurrent transaction that has
    /// added one of them. No id may occur twice in `keys`.
    async fn check_inbox(&mut self, keys: &[MessageKey]) -> Result<Vec<InboxCheck>, StoreError>;

    /// Whether copies with retry marks are current, in the order of `marks`. Locks their failed messages until the end of the
    /// transaction, so that an operator action happens either before or after it.
    async fn check_retries(&mut self, marks: &[RetryMark]) -> Result<Vec<RetryCheck>, StoreError>;

    /// The places of commands in the order of their keys, in the order of `messages`.
    async fn check_order(&mut self, messages: &[OrderedMessage]) -> Result<Vec<OrderCheck>, StoreError>;

    /// The counted attempts of messages, in the order of `keys`; 0 for a message that is not retrying.
    async fn failed_attempts(&mut self, keys: &[FailedMessageKey]) -> Result<Vec<u32>, StoreError>;

    /// Loads the products of the working set and locks them until the end of the transaction, in SKU order, so that two
    /// transactions cannot deadlock. A product is loaded with the batches of its first search ([`BatchSearch::FIRST`]), the
    /// named batches, the named lines and their batches. A product that does not exist is left out.
    async fn load_products(&mut self, working_set: &WorkingSet) -> Result<LoadedProducts, StoreError>;

    /// The stored batches of a product that a search finds, in the order of allocation. The cost grows with the logarithm of
    /// their number.
    async fn search_batches(&mut self, sku: &Sku, search: &BatchSearch) -> Result<Vec<Batch>, StoreError>;

    /// Attaches backorders to a loaded product, as far as its freed stock may reach: the oldest of each quantity that fits
    /// into a batch, as many as fit. The cost is bounded by the freed stock.
    async fn load_waiting_lines(&mut self, product: &mut Product) -> Result<(), StoreError>;

    /// Attaches the newest lines of a batch to a loaded product until they have at least `units`, together with those that are
    /// attached.
    async fn load_newest_lines(
        &mut self,
        product: &mut Product,
        batch: &BatchRef,
        units: u32,
    ) -> Result<(), StoreError>;

    /// Writes all changes and commits.
    ///
    /// # Errors
    /// After [`StoreError::Unavailable`] and [`StoreError::CommitUnknown`] the outcome is unknown; after any other error nothing
    /// was changed.
    async fn commit(self: Box<Self>, work: ChangeSet) -> Result<(), StoreError>;

    /// Rolls the transaction back.
    async fn rollback(self: Box<Self>);
}

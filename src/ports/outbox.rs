//! How events leave: read in order by the one active relay, published, and removed once confirmed.

use async_trait::async_trait;
use uuid::Uuid;

use super::{error::StoreError, failed_messages::DueRetry};

/// An unpublished event as the outbox keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxRow {
    /// Its place in the outbox; among rows of one product, the order of commit.
    pub id: i64,
    /// The event's id, the same at every publication.
    pub event_id: Uuid,
    /// The event's public name.
    pub name: String,
    /// The product it happened to.
    pub sku: String,
    /// Its place in that product's history.
    pub sequence: i64,
    /// Its JSON.
    pub body: String,
    /// The message id of the command it follows from.
    pub causation_id: String,
    /// What ties together everything that follows from one request.
    pub correlation_id: String,
    /// The W3C trace it belongs to.
    pub traceparent: Option<String>,
    /// When it was committed, in seconds since 1970.
    pub committed_at: u64,
}

/// What became of a publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishOutcome {
    /// The broker has it, and has given it to every queue that wants it.
    Confirmed,
    /// The broker has it, and no queue wanted it.
    Unroutable,
    /// The broker cannot take it now: a queue is full, say.
    Nacked(String),
    /// The broker will never take it as it is: it is too large, say. Only ever said of a message published alone.
    Rejected(String),
    /// Nobody knows: it is to be published again.
    Unknown(String),
}

/// The unpublished events.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// Tries to become the one active relay.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be asked.
    async fn try_lead(&self) -> Result<Option<Box<dyn LeaderSession>>, StoreError>;

    /// Waits until there may be something to publish, or the lead may be free. Wakes too often rather than never:
    /// it is a hint, and the caller asks the outbox itself now and then.
    async fn wait_for_wakeup(&self);
}

/// Events that were set aside, as operators deal with them.
#[async_trait]
pub trait ParkedEvents: Send + Sync {
    /// Has events that were set aside published again, those with these ids or all, and says how many.
    ///
    /// # Errors
    /// The store is away.
    async fn try_again(&self, ids: Option<&[i64]>) -> Result<usize, StoreError>;
}

/// The right to publish. It ends with the session that holds it, so that nothing can be marked after it is lost.
#[async_trait]
pub trait LeaderSession: Send {
    /// What there is to do. Cheap: it is asked every second.
    async fn pending(&mut self) -> Result<PendingWork, StoreError>;

    /// The oldest unpublished rows, in order, except of some products.
    async fn unpublished(&mut self, at_most: u32, except: &[String]) -> Result<Vec<OutboxRow>, StoreError>;

    /// Forgets rows that were confirmed, and counts those that no queue wanted.
    async fn remove(&mut self, ids: &[i64], unroutable: i64) -> Result<(), StoreError>;

    /// Sets a row aside with the reason; it and its product's later rows count as unpublished no more, until an
    /// operator says to try again.
    async fn park(&mut self, id: i64, reason: &str) -> Result<(), StoreError>;

    /// Failed messages whose time for another attempt has come.
    async fn due_retries(&mut self, at_most: u32) -> Result<Vec<DueRetry>, StoreError>;

    /// Notes that copies of failed messages were published and confirmed.
    async fn retries_published(&mut self, retries: &[&DueRetry]) -> Result<(), StoreError>;

    /// Notes why retries could not be published; they will be tried again soon.
    async fn defer(&mut self, retries: &[&DueRetry], reason: &str) -> Result<(), StoreError>;

    /// Notes that a retry can never be published as it is: it is dead.
    async fn reject(&mut self, retry: &DueRetry, reason: &str) -> Result<(), StoreError>;

    /// Removes a small number of rows that nobody needs any more; true if there may be more.
    async fn purge_expired(&mut self, retention: Retention) -> Result<bool, StoreError>;

    /// Lets another relay take over at once.
    async fn release(self: Box<Self>);
}

/// How long what is done with is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Handled messages: longer than any repeat of theirs may take to come.
    pub inbox: std::time::Duration,
    /// Resolved and discarded failures.
    pub failures: std::time::Duration,
}

/// What there is to publish.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PendingWork {
    /// Whether events are waiting.
    pub events: bool,
    /// When the next retry is due: zero if one is; none if there is none.
    pub retry_in: Option<std::time::Duration>,
}

/// Publishes events, and retries of commands.
#[async_trait]
pub trait Publisher: Send + Sync {
    /// Publishes rows in order, all in flight together, and says what became of each, in the same order. One that
    /// the broker rejects makes those behind it unknown, and is unknown itself unless it is alone.
    async fn publish(&self, rows: &[OutboxRow]) -> Vec<PublishOutcome>;

    /// Publishes failed messages back to their queues, as they were, and says what became of each.
    async fn publish_retries(&self, retries: &[DueRetry]) -> Vec<PublishOutcome>;
}

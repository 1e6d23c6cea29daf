//! Publication of committed events and of retries: the outbox, its leader session, and the publisher.

use std::time::Duration;

use async_trait::async_trait;

use crate::domain::{OutboxRow, PublishOutcome};

use super::{error::StoreError, failed_messages::DueRetry, observer::PurgedRows};

/// The committed, unpublished events.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// Tries to become the leader, the one relay that publishes; `None` if there is another leader. A store that accepts no
    /// writes has no leader: what is published could not be removed.
    ///
    /// # Errors
    /// [`StoreError`] if the store does not answer or accepts no writes.
    async fn try_lead(&self) -> Result<Option<Box<dyn LeaderSession>>, StoreError>;

    /// Whether the store is available, writes included.
    ///
    /// # Errors
    /// [`StoreError`] if it is not.
    async fn probe(&self) -> Result<(), StoreError>;

    /// Waits until there may be something to publish, or until leadership may be free. This is a hint: it may return
    /// without a cause, and another process's hint may get lost, so the caller polls as well.
    async fn wait_for_wakeup(&self);
}

/// Parked events: the broker rejected them, and they wait for an operator.
#[async_trait]
pub trait ParkedEvents: Send + Sync {
    /// Has parked events published again, those with these ids or all of them. Returns how many.
    ///
    /// # Errors
    /// [`StoreError`] if the store does not answer.
    async fn unpark(&self, ids: Option<&[i64]>) -> Result<usize, StoreError>;
}

/// Leadership: the exclusive right to publish. It ends with the session that holds it: after it is lost, every call fails
/// and changes nothing.
#[async_trait]
pub trait LeaderSession: EventFeed + RetryFeed + Upkeep {
    /// Ends the session so that another relay can become leader at once.
    async fn release(self: Box<Self>);
}

/// The events that the leader publishes.
///
/// # Errors
/// Every method fails with a [`StoreError`] if the store does not answer. After any but [a conflict](StoreError::is_conflict) the
/// session, and leadership with it, is lost.
#[async_trait]
pub trait EventFeed: Send {
    /// Whether there is something to publish. Cheap: it is polled every second, and shows that the leader is alive.
    async fn pending(&mut self) -> Result<PendingWork, StoreError>;

    /// The oldest unpublished rows in the order of their ids, without those of the SKUs in `except`. Neither parked
    /// rows nor other rows of their SKUs are included.
    async fn unpublished(&mut self, at_most: u32, except: &[String]) -> Result<Vec<OutboxRow>, StoreError>;

    /// Removes published rows, and counts the `unroutable` ones among them.
    async fn remove(&mut self, ids: &[i64], unroutable: &[i64]) -> Result<(), StoreError>;

    /// Records the names of the events that the broker nacks at present; the time of the first of them is kept until there is
    /// none.
    async fn record_nacked(&mut self, names: &[String]) -> Result<(), StoreError>;

    /// Parks a row that the broker rejected. No row of its SKU counts as unpublished until it is
    /// [unparked](ParkedEvents::unpark).
    async fn park(&mut self, id: i64, reason: &str) -> Result<(), StoreError>;
}

/// The retries that the leader publishes. What is noted about a retry changes nothing if its failed message has changed
/// since the retry was read.
///
/// # Errors
/// As for [`EventFeed`].
#[async_trait]
pub trait RetryFeed: Send {
    /// Retries that are due, the longest due first: at most so many, and at most so many bytes of bodies, but at least one.
    async fn due(&mut self, at_most: u32, at_most_bytes: usize) -> Result<Vec<DueRetry>, StoreError>;

    /// Records that retries were published and confirmed.
    async fn published(&mut self, retries: &[&DueRetry]) -> Result<(), StoreError>;

    /// Records why retries could not be published now; they are due again a few seconds later.
    async fn defer(&mut self, retries: &[&DueRetry], reason: &str) -> Result<(), StoreError>;

    /// Records that the broker rejects a retry permanently: the message becomes a dead letter.
    async fn reject(&mut self, retry: &DueRetry, reason: &str) -> Result<(), StoreError>;
}

/// Periodic removal of expired rows, done by the leader so that one process does it.
///
/// # Errors
/// As for [`EventFeed`].
#[async_trait]
pub trait Upkeep: Send {
    /// Removes a limited number of expired rows.
    async fn purge(&mut self, retention: Retention) -> Result<Purge, StoreError>;

    /// Adds up what changed in the numbers of failed messages, so that they can be read fast. They are exact at any time.
    async fn add_up_failed_messages(&mut self) -> Result<(), StoreError>;
}

/// The result of one step of the upkeep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purge {
    /// The removed rows.
    pub rows: PurgedRows,
    /// Whether there may be more expired rows.
    pub is_incomplete: bool,
}

/// How long rows are kept that no message in flight needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Inbox rows: longer than the latest duplicate of a message may take to arrive.
    pub inbox: Duration,
    /// Resolved failed messages, and discarded ones if `inbox` is not longer.
    pub failures: Duration,
    /// Published events, for the history of a message. Zero: they are not recorded.
    pub published: Duration,
}

/// What there is to publish.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PendingWork {
    /// Whether there are unpublished events.
    pub events: bool,
    /// The time until the next retry is due: zero if one is due, `None` if there is no retry.
    pub retry_in: Option<Duration>,
}

/// Publishes events, and retries of commands.
///
/// Both methods publish all messages together, in order, and return one outcome per message, in the same order. They wait
/// for the broker's answers, and report an outage as [`PublishOutcome::Unknown`]. If the broker rejects one message of
/// several, it and those behind it are unknown; published alone, it is [`PublishOutcome::Rejected`].
#[async_trait]
pub trait Publisher: Send + Sync {
    /// Publishes events to the exchange of events.
    async fn publish(&self, rows: &[OutboxRow]) -> Vec<PublishOutcome>;

    /// Publishes failed messages to their queues, with their original properties.
    async fn publish_retries(&self, retries: &[DueRetry]) -> Vec<PublishOutcome>;

    /// The W3C trace context of the sender of a failed message, as it was sent.
    fn sender_context(&self, _retry: &DueRetry) -> Option<String> {
        None
    }

    /// Whether the broker has paused publishing: a publication in progress does not end before its resource alarm.
    fn is_blocked(&self) -> bool {
        false
    }
}

//! What is observed to find out why a queue does not move.

use std::time::Duration;

use async_trait::async_trait;
use time::OffsetDateTime;

use super::{processes::ProcessRow, queue::QueueName};

/// What was observed, or why it is not known.
pub type Observed<T> = Result<T, String>;

/// Everything that is observed about a queue. Each part may be unknown by itself.
#[derive(Clone, Debug)]
pub struct QueueObservations {
    /// The queue.
    pub queue: QueueName,
    /// The database.
    pub database: Observed<DatabaseCondition>,
    /// The broker; unknown if it cannot be used.
    pub broker: Observed<BrokerCondition>,
    /// The processes, as they report themselves.
    pub processes: Observed<Vec<ProcessRow>>,
    /// Sessions that hold locks on rows of this program.
    pub locks: Observed<Locks>,
    /// What the database holds for the queue.
    pub work: Observed<QueueBacklog>,
    /// A partition that is busy with one batch for longer is stalled, as `/health/live` says.
    pub stalled_after: Duration,
}

impl QueueObservations {
    /// The queue of the broker.
    ///
    /// # Errors
    /// Why it is not known.
    pub fn broker_queue(&self) -> Observed<BrokerQueue> {
        self.broker_condition()?.queue.clone()
    }

    /// Whether the broker has paused publishing.
    ///
    /// # Errors
    /// Why it is not known.
    pub fn broker_alarm(&self) -> Observed<bool> {
        self.broker_condition()?.alarm.clone()
    }

    fn broker_condition(&self) -> Observed<&BrokerCondition> {
        self.broker.as_ref().map_err(|_| "the broker cannot be used".to_owned())
    }
}

/// The database, as this program sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseCondition {
    /// It can be used.
    Usable,
    /// It accepts no writes.
    ReadOnly,
    /// It is another one than this program requires, and why.
    Unusable(String),
}

/// The broker, as this program sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerCondition {
    /// The queue.
    pub queue: Observed<BrokerQueue>,
    /// Whether it has paused publishing because of a resource alarm.
    pub alarm: Observed<bool>,
}

/// A queue of the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerQueue {
    /// It exists.
    Exists {
        /// Messages that are ready for delivery.
        ready: u32,
        /// Consumers.
        consumers: u32,
    },
    /// There is no such queue.
    Missing,
}

/// Locks on rows of this program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locks {
    /// The sessions that hold them, in long transactions; those that others wait for come first.
    pub holders: Vec<LockHolder>,
    /// Whether there are sessions that this role may not see.
    pub has_hidden_sessions: bool,
}

/// A session that holds locks on rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockHolder {
    /// The process id of the session.
    pub pid: i32,
    /// Its application name; may be empty.
    pub application: String,
    /// Its state; none if this role may not see it.
    pub state: Option<String>,
    /// When its transaction began.
    pub since: Option<OffsetDateTime>,
    /// The sessions that wait for it now.
    pub waiting: u64,
    /// Whether it waits for another session itself.
    pub is_waiting: bool,
}

/// What the database holds for a queue. Numbers are counted up to a limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueBacklog {
    /// Whether a relay leads.
    pub relay_leads: bool,
    /// Messages that wait for their next attempt.
    pub retrying: u64,
    /// When the earliest of them is due.
    pub next_due: Option<OffsetDateTime>,
    /// How long the earliest of them, which the broker has not rejected, is overdue.
    pub retries_overdue: Duration,
    /// The age of the oldest event that can be published, of all queues.
    pub oldest_event: Duration,
    /// Retries that the broker did not accept.
    pub held: u64,
    /// Why it did not accept the first of them.
    pub held_because: Option<String>,
    /// Messages that wait for an earlier one with the same line or batch.
    pub waiting: u64,
    /// Messages that were postponed because another session holds a lock.
    pub postponed_by_lock: u64,
    /// Parked events of all queues.
    pub parked: u64,
    /// The types of the events that the broker nacks.
    pub nacked_events: Vec<String>,
    /// Since when it nacks events.
    pub nacked_since: Option<OffsetDateTime>,
    /// The message whose handling was interrupted most often lately.
    pub interrupted: Option<InterruptedMessage>,
}

/// A message whose handling began and did not end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterruptedMessage {
    /// Its id.
    pub message_id: String,
    /// How often its handling began without an end.
    pub starts: u32,
    /// When it last began.
    pub started_at: OffsetDateTime,
}

/// A line of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderedLine {
    /// The SKU.
    pub sku: String,
    /// The quantity.
    pub qty: i32,
    /// Its batch; none if it is a backorder.
    pub batchref: Option<String>,
    /// Of a backorder: the largest free quantity of a batch of the SKU; none if no batch has free stock.
    pub largest_free: Option<i32>,
    /// Of a backorder: at least so many backorders of the SKU are older.
    pub backorders_before: u64,
}

/// A failed command of an order that was not handled later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedCommand {
    /// The id of the failed message.
    pub id: i64,
    /// Its type.
    pub kind: String,
    /// `retrying`, `waiting`, `dead` or `discarded`.
    pub status: String,
    /// Why it is dead.
    pub reason: Option<String>,
    /// Its last error.
    pub error: String,
}

/// Observes one queue of the broker.
#[async_trait]
pub trait QueueObserver: Send + Sync {
    /// Observes it within a few seconds.
    async fn observe(&self, queue: QueueName) -> Observed<BrokerCondition>;
}

//! What processes of the program report of themselves, for operators.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use super::error::StoreError;

/// A process reports itself this often, and earlier when its state changes.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);
/// A process that did not report itself for longer is not running, or cannot use the database.
pub const LOST_AFTER: Duration = Duration::from_secs(15);

/// Why a process consumes no queue while failed messages take more space than allowed.
pub const STORAGE_FULL: &str = "failed messages take more space than limits.failed_messages";

/// Why a process consumes a queue no longer in a long outage of a server.
pub const MESSAGES_RETURNED: &str = "its messages were returned, because a server was unavailable";

/// The roles that a process can have.
pub const ROLES: [&str; 5] = ["worker", "relay", "archive", "notifier", "api"];

/// A report of a process.
#[derive(Clone, Debug, PartialEq)]
pub struct Heartbeat {
    /// The id of this run of the process: in containers, several processes can have the same name.
    pub id: Uuid,
    /// Its host and process id.
    pub name: String,
    /// Its version.
    pub version: &'static str,
    /// Its roles, of [`ROLES`].
    pub roles: Vec<String>,
    /// The time since its start.
    pub uptime: Duration,
    /// Whether this is the end of an orderly stop.
    pub is_stopped: bool,
    /// What it does.
    pub state: ProcessState,
}

/// What a process does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessState {
    /// Its work on the queues that it has consumed.
    pub queues: Vec<QueueWork>,
    /// Its partitions that are busy with a batch.
    pub busy: Vec<BusyPartition>,
    /// The servers that it waits for.
    pub unavailable: Vec<UnavailableServer>,
    /// The queues that it should consume and does not.
    pub not_consuming: Vec<UnconsumedQueue>,
}

/// What a process does with the messages of a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueWork {
    /// The queue, without the namespace.
    pub queue: String,
    /// The deliveries that are not acknowledged, with those of its dead-letter queue.
    pub unacknowledged: u64,
    /// The messages that got an outcome within the last minute.
    pub finished_last_minute: u64,
}

/// A partition that is busy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusyPartition {
    /// Its queue, without the namespace.
    pub queue: String,
    /// How long it has been busy with the same batch, in seconds.
    pub seconds: u64,
}

/// A server that a process cannot use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnavailableServer {
    /// Its name: database, broker or mail server.
    pub server: String,
    /// Since how many seconds.
    pub seconds: u64,
    /// The last error that was logged.
    pub error: String,
}

/// A queue that a process should consume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnconsumedQueue {
    /// Its name.
    pub queue: String,
    /// Why it is not consumed; empty while the process subscribes for the first time.
    pub error: String,
}

/// A process of the program, as it last reported itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProcessRow {
    /// Its host and process id.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its roles.
    pub roles: Vec<String>,
    /// When it was started.
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    /// When it last reported itself.
    #[serde(with = "time::serde::rfc3339")]
    pub seen_at: OffsetDateTime,
    /// `running`; `stopped`; or `lost`: it does not report itself, because it was killed or cannot use the database.
    pub status: &'static str,
    /// What it last reported.
    pub state: ProcessState,
}

/// Where processes report themselves.
#[async_trait]
pub trait ProcessRegistry: Send + Sync {
    /// Records a report. It replaces the former one of the process.
    ///
    /// # Errors
    /// The store is unavailable.
    async fn record(&self, heartbeat: &Heartbeat) -> Result<(), StoreError>;
}

//! The reasons why a queue does not move, in order: the first one that is found is the root cause.

use serde::{Serialize, Serializer};
use time::OffsetDateTime;

use crate::domain::named_values;

named_values! {
    /// A reason. A reason explains those after it.
    ReasonCode {
        /// The database cannot be used.
        DatabaseAway = "database_away",
        /// The broker cannot be used.
        BrokerAway = "broker_away",
        /// The broker has paused publishing.
        BrokerAlarm = "broker_alarm",
        /// The broker has no such queue.
        QueueMissing = "queue_missing",
        /// The database is not the one that this program requires.
        SchemaDiffers = "schema_differs",
        /// Failed messages take more space than allowed.
        StorageFull = "storage_full",
        /// No process consumes the queue.
        NoWorker = "no_worker",
        /// A message ends the processes that handle it.
        BreakingMessage = "breaking_message",
        /// A process makes no progress.
        StuckHandler = "stuck_handler",
        /// Another session holds locks.
        LockWait = "lock_wait",
        /// The mail server cannot be used.
        MailAway = "mail_away",
        /// Nothing is published.
        RelayMissing = "relay_missing",
        /// The broker does not accept an event.
        EventRefused = "event_refused",
        /// The broker does not accept retries.
        RetriesHeld = "retries_held",
        /// Messages wait for their next attempt.
        RetriesWaiting = "retries_waiting",
        /// Messages are being handled.
        Busy = "busy",
        /// There is nothing to handle.
        Idle = "idle",
        /// Messages wait, none is handled, and there is no other reason.
        Unexplained = "unexplained",
    }
}

impl ReasonCode {
    /// Whether no message is handled because of it.
    pub(super) fn stops_the_queue(self) -> bool {
        !matches!(
            self,
            Self::BrokerAlarm
                | Self::RelayMissing
                | Self::EventRefused
                | Self::RetriesHeld
                | Self::RetriesWaiting
                | Self::Busy
                | Self::Idle
        )
    }

    /// The section of the runbook.
    pub(super) fn anchor(self) -> &'static str {
        match self {
            Self::DatabaseAway | Self::BrokerAway => "server-unavailable",
            Self::BrokerAlarm => "outbox-old",
            Self::QueueMissing => "failed-messages-and-queues",
            Self::SchemaDiffers => "database-http-and-processes",
            Self::NoWorker => "no-consumers",
            Self::BreakingMessage => "crash-loop",
            Self::StuckHandler => "stalled-handler",
            Self::RelayMissing => "relay-leaders",
            Self::EventRefused => "parked-events",
            Self::RetriesHeld => "retries-overdue",
            Self::StorageFull | Self::RetriesWaiting => "dead-letters",
            Self::LockWait | Self::MailAway | Self::Unexplained | Self::Busy | Self::Idle => {
                "queue-not-moving"
            }
        }
    }
}

impl Serialize for ReasonCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// What to do about a reason that ends by itself.
pub const NOTHING: &str = "nothing";

/// A reason that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The reason.
    pub code: ReasonCode,
    /// Since when, if that is recorded.
    #[serde(with = "time::serde::rfc3339::option")]
    pub since: Option<OffsetDateTime>,
    /// What was observed.
    pub evidence: String,
    /// What to do.
    pub fix: String,
    /// The section of the runbook.
    pub anchor: &'static str,
}

impl Finding {
    pub(super) fn new(code: ReasonCode, evidence: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { code, since: None, evidence: evidence.into(), fix: fix.into(), anchor: code.anchor() }
    }

    pub(super) fn since(self, since: Option<OffsetDateTime>) -> Self {
        Self { since, ..self }
    }
}

/// A reason about which nothing was observed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotKnown {
    /// The reason.
    pub code: ReasonCode,
    /// Why it is not known.
    pub because: String,
}

/// What the observations say about a reason: it is found, ruled out (`None`), or not known.
pub(super) type Verdict = Result<Option<Finding>, String>;

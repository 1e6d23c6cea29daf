//! A committed event that is not published yet, and the outcomes of its publication.

use time::OffsetDateTime;
use uuid::Uuid;

/// A committed event that is not published yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxRow {
    /// Its position in the outbox; among the rows of one SKU, the order of commit.
    pub id: i64,
    /// The event's id, the same in every publication.
    pub event_id: Uuid,
    /// The event's public name.
    pub name: String,
    /// The SKU that the event is about.
    pub sku: String,
    /// Its number among the events of this SKU.
    pub sequence: i64,
    /// The event as JSON.
    pub body: String,
    /// The message id of the command that caused it.
    pub causation_id: String,
    /// The id that all messages of one request have in common.
    pub correlation_id: String,
    /// The W3C trace context of the command, if it had one.
    pub traceparent: Option<String>,
    /// What the systems of that trace add to it.
    pub tracestate: Option<String>,
    /// The time of the commit, by the clock of the store.
    pub committed_at: OffsetDateTime,
}

/// The outcome of one publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishOutcome {
    /// The broker confirmed it: every bound queue has it.
    Confirmed,
    /// The broker confirmed it, but no queue is bound for it.
    Unroutable,
    /// The broker refused it for now, for example because a queue is full.
    Nacked(String),
    /// The broker rejects this message permanently, for example because it is too large. Reported only for a message
    /// that was published alone.
    Rejected(String),
    /// No answer arrived: the message may or may not be published, and has to be published again.
    Unknown(String),
}

impl PublishOutcome {
    /// Whether the broker took the message, so that it need not be published again.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        matches!(self, Self::Confirmed | Self::Unroutable)
    }

    /// Why the broker did not answer; `None` if it answered, whatever its answer.
    #[must_use]
    pub fn broker_error(&self) -> Option<&str> {
        match self {
            Self::Unknown(reason) => Some(reason),
            Self::Confirmed | Self::Unroutable | Self::Nacked(_) | Self::Rejected(_) => None,
        }
    }
}

#[cfg(test)]
pub(super) fn row(id: i64, name: &str, sku: &str) -> OutboxRow {
    OutboxRow {
        id,
        event_id: Uuid::nil(),
        name: name.into(),
        sku: sku.into(),
        sequence: id,
        body: String::new(),
        causation_id: String::new(),
        correlation_id: String::new(),
        traceparent: None,
        tracestate: None,
        committed_at: OffsetDateTime::UNIX_EPOCH,
    }
}

//! Reports about what is published: events, retries, notifications.

use std::time::SystemTime;

use uuid::Uuid;

use crate::domain::{PublishOutcome, named_values};

use super::period::Period;

named_values! {
    /// The outcome of one publication of one message.
    PublicationOutcome {
        /// The broker confirmed it.
        Confirmed = "confirmed",
        /// The broker confirmed it, but no queue is bound for it.
        Unroutable = "unroutable",
        /// The broker refused it for now.
        Nacked = "nacked",
        /// The broker rejects it permanently: an event is parked, a retry is dead.
        Rejected = "rejected",
        /// The broker did not answer: it is published again.
        Unconfirmed = "unconfirmed",
    }
}

impl From<&PublishOutcome> for PublicationOutcome {
    fn from(outcome: &PublishOutcome) -> Self {
        match outcome {
            PublishOutcome::Confirmed => Self::Confirmed,
            PublishOutcome::Unroutable => Self::Unroutable,
            PublishOutcome::Nacked(_) => Self::Nacked,
            PublishOutcome::Rejected(_) => Self::Rejected,
            PublishOutcome::Unknown(_) => Self::Unconfirmed,
        }
    }
}

/// An event of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedEvent<'a> {
    /// Its id, which is the message id.
    pub event_id: Uuid,
    /// Its public name.
    pub name: &'a str,
    /// The SKU that it is about.
    pub sku: &'a str,
    /// Its number among the events of this SKU.
    pub sequence: i64,
    /// The time of its commit, by the clock of the database.
    pub committed_at: SystemTime,
    /// The correlation id.
    pub correlation_id: &'a str,
    /// The W3C trace context of its command, if that had one.
    pub traceparent: Option<&'a str>,
    /// The outcome.
    pub outcome: PublicationOutcome,
}

/// Events that were published together.
#[derive(Clone, Copy, Debug)]
pub struct EventsPublished<'a> {
    /// From the first publication to the last answer.
    pub period: Period,
    /// The events, in the order of publication.
    pub events: &'a [PublishedEvent<'a>],
}

/// A retry of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedRetry<'a> {
    /// The id of the failed message.
    pub failed_message_id: i64,
    /// The generation of the copy.
    pub generation: i64,
    /// The message id, if it has one.
    pub message_id: Option<&'a str>,
    /// The W3C trace context of its sender, as it was sent; it may be invalid.
    pub traceparent: Option<&'a str>,
    /// The outcome.
    pub outcome: PublicationOutcome,
}

/// Retries that were published together.
#[derive(Clone, Copy, Debug)]
pub struct RetriesPublished<'a> {
    /// From the first publication to the last answer.
    pub period: Period,
    /// The retries, in the order of publication.
    pub retries: &'a [PublishedRetry<'a>],
}

named_values! {
    /// The outcome of a notification.
    NotificationOutcome {
        /// Its receiver accepted it.
        Sent = "sent",
        /// Its receiver deferred it.
        Deferred = "deferred",
        /// Its receiver rejected it.
        Rejected = "rejected",
        /// The mail server is unavailable.
        Unavailable = "unavailable",
    }
}

/// Expired rows that were removed, by table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PurgedRows {
    /// Ids of handled messages.
    pub inbox: u64,
    /// Failed messages that are resolved or discarded.
    pub failed_messages: u64,
    /// Starts without an end.
    pub message_starts: u64,
    /// Events that were published.
    pub published_events: u64,
}

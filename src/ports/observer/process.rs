//! Reports about the process and its servers.

use crate::{
    domain::named_values,
    ports::queue::{QueueKind, QueueName},
};

use super::{period::Period, spans::SpanDecision};

named_values! {
    /// A server that this process needs.
    Server {
        /// PostgreSQL.
        Database = "database",
        /// RabbitMQ.
        Broker = "broker",
        /// The mail server.
        Mail = "mail",
    }
}

/// A server became unavailable, or available again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AvailabilityReport {
    /// The server.
    pub server: Server,
    /// Whether it is available again.
    pub is_available: bool,
}

/// What happened to a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubscriptionChange {
    /// A consumer starts, and has no subscription yet.
    Pending,
    /// It has a subscription.
    Began,
    /// Its subscription ended in order, or was never made.
    Ended,
    /// Its subscription was lost: by the connection, by the broker, or by a panic.
    Lost,
}

/// A change of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriptionReport {
    /// The queue.
    pub queue: QueueName,
    /// The queue itself, or its dead letters.
    pub queue_kind: QueueKind,
    /// What happened.
    pub change: SubscriptionChange,
}

/// A change of the leadership of this process's relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeadershipChange {
    /// A relay runs as standby.
    Standby,
    /// It became the leader.
    Began,
    /// It is no longer the leader.
    Ended,
}

named_values! {
    /// An HTTP server of this process.
    Listener {
        /// The API.
        Api = "api",
    }
}

/// A request that was answered.
#[derive(Clone, Copy, Debug)]
pub struct RequestReport<'a> {
    /// The server that answered.
    pub listener: Listener,
    /// The template of the path; "other" if none matched.
    pub route: &'static str,
    /// The method; "other" if it is not a standard one.
    pub method: &'static str,
    /// The status of the response.
    pub status: u16,
    /// From the headers of the request to those of the response.
    pub period: Period,
    /// The client's trace context as it was sent, if it is UTF-8; it may be invalid.
    pub traceparent: Option<&'a str>,
    /// Whether its span is recorded.
    pub span: SpanDecision,
}

/// The version of the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchemaReport {
    /// The version in the database; `None` if it has none.
    pub found: Option<i64>,
    /// The version that this program needs.
    pub expected: i64,
}

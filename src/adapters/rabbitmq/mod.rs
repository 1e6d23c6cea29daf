//! RabbitMQ: queues, publishing, and the topology.
//!
//! The client's own recovery is off: after it, consumers receive nothing. A lost connection is an error, and its user opens
//! a new one. Consumers and publishers never share a connection: a broker in alarm stops reading from connections that
//! publish, and acknowledgements would wait with them.

mod consumer;
mod properties;
mod publisher;
mod topology;

use std::time::Duration;

use lapin::{Channel, Connection, ConnectionProperties, ErrorKind};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::ports::{
    error::{BrokerError, Cause, error_text},
    queue::QueueName,
};

pub use consumer::RabbitQueues;
pub use publisher::{RabbitCommandSender, RabbitPublisher};
pub use topology::RabbitTopology;

/// A broker that does not complete an operation in this time is unavailable.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// A half-open connection is detected after two intervals.
const HEARTBEAT_SECONDS: &str = "10";

/// How to connect to the broker, and the namespace of its queues and exchanges.
#[derive(Clone, Debug)]
pub struct RabbitConfig {
    url: SecretString,
    namespace: String,
}

impl RabbitConfig {
    /// Parses an `amqp://` or `amqps://` URL.
    ///
    /// # Errors
    /// The URL is not one; the message does not repeat it, for it may hold a password.
    pub fn new(url: &str, namespace: &str) -> Result<Self, BrokerError> {
        let mut url = Url::parse(url).map_err(|error| BrokerError::InvalidUrl(Cause::new(error)))?;
        // The client library repeats a URL without a host in its error, with the password.
        if !matches!(url.scheme(), "amqp" | "amqps") || url.cannot_be_a_base() {
            return Err(BrokerError::InvalidUrl("it must begin with amqp:// or amqps://".into()));
        }
        if !url.query_pairs().any(|(key, _)| key == "heartbeat") {
            url.query_pairs_mut().append_pair("heartbeat", HEARTBEAT_SECONDS);
        }
        Ok(Self { url: String::from(url).into(), namespace: namespace.to_owned() })
    }

    /// The prefix of every name.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A name with the prefix.
    #[must_use]
    pub fn named(&self, name: &str) -> String {
        format!("{}.{name}", self.namespace)
    }

    /// A queue's full name.
    #[must_use]
    pub fn queue(&self, queue: QueueName) -> String {
        self.named(queue.as_str())
    }

    /// The full name of a queue's dead-letter queue.
    #[must_use]
    pub fn dead_letter_queue(&self, queue: QueueName) -> String {
        format!("{}.dlq", self.queue(queue))
    }

    /// Opens a connection; the broker lists it under `purpose`.
    ///
    /// # Errors
    /// The broker does not answer in time, or refuses the connection.
    pub async fn connect(&self, purpose: &str) -> Result<Connection, BrokerError> {
        let name = format!("{} {purpose}", self.namespace);
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        with_timeout(CONNECT_WITHIN, Connection::connect(self.url.expose_secret(), properties)).await
    }
}

/// Opens a channel.
async fn channel(connection: &Connection) -> Result<Channel, BrokerError> {
    with_timeout(CONNECT_WITHIN, connection.create_channel()).await
}

/// Waits for an answer of the broker within the timeout.
async fn with_timeout<T>(
    timeout: Duration,
    question: impl Future<Output = Result<T, lapin::Error>>,
) -> Result<T, BrokerError> {
    match tokio::time::timeout(timeout, question).await {
        Ok(outcome) => outcome.map_err(broker_error),
        Err(_) => Err(BrokerError::Unavailable(format!("no answer within {timeout:?}").into())),
    }
}

/// The class of an error: the broker refused the operation with a reply, or the connection failed.
fn broker_error(error: lapin::Error) -> BrokerError {
    match error.kind() {
        ErrorKind::ProtocolError(_) => BrokerError::Rejected(reply_text(&error).into()),
        _ => BrokerError::Unavailable(Cause::new(error)),
    }
}

/// The text of the broker's reply; without a reply, the client library's error.
fn reply_text(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(reply) => reply.get_message().to_string(),
        _ => error_text(error),
    }
}

/// The code with which the broker closed a channel or connection.
fn reply_code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(error.get_id()),
        _ => None,
    }
}

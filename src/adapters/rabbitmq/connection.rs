//! Connections to the broker, with time limits, and the classes of their errors.
//!
//! The client library's recovery stays disabled, since it leaves consumers without deliveries: after an error the caller
//! connects again.

use std::time::Duration;

use lapin::{Channel, Connection, ConnectionProperties, ErrorKind};
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use crate::ports::{
    error::{BrokerError, Cause, error_text},
    queue::QueueName,
};

/// Time to wait for a connection, a channel or a declaration before the broker is considered unavailable.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A half-open connection is detected after two intervals.
const HEARTBEAT_SECONDS: &str = "10";

/// The broker and the namespace on it.
#[derive(Clone, Debug)]
pub struct RabbitConfig {
    url: SecretString,
    namespace: String,
}

impl RabbitConfig {
    /// Parses an `amqp://` or `amqps://` URL.
    ///
    /// # Errors
    /// The URL is invalid. The message does not contain it, since it may contain a password.
    pub fn new(url: &str, namespace: &str) -> Result<Self, BrokerError> {
        let mut url = Url::parse(url).map_err(|error| BrokerError::InvalidUrl(Cause::new(error)))?;
        // The client library's error for a URL without a host contains the password.
        if !matches!(url.scheme(), "amqp" | "amqps") || url.cannot_be_a_base() {
            return Err(BrokerError::InvalidUrl("it begins with amqp:// or amqps://".into()));
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

    /// A name with the namespace.
    #[must_use]
    pub fn named(&self, name: &str) -> String {
        format!("{}.{name}", self.namespace)
    }

    /// The full name of a queue.
    #[must_use]
    pub fn queue(&self, queue: QueueName) -> String {
        self.named(queue.as_str())
    }

    /// The full name of the queue for the messages that the broker dead-letters from a queue.
    #[must_use]
    pub fn dead_letter_queue(&self, queue: QueueName) -> String {
        format!("{}.dlq", self.queue(queue))
    }

    /// Opens a connection. `purpose` is part of its name in the broker's lists.
    ///
    /// # Errors
    /// The broker does not reply in time, or refuses the connection.
    pub async fn connect(&self, purpose: &str) -> Result<Connection, BrokerError> {
        let name = format!("{} {purpose}", self.namespace);
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        with_timeout(CONNECT_TIMEOUT, Connection::connect(self.url.expose_secret(), properties)).await
    }
}

pub(super) async fn open_channel(connection: &Connection) -> Result<Channel, BrokerError> {
    with_timeout(CONNECT_TIMEOUT, connection.create_channel()).await
}

/// Runs an operation within a time limit.
pub(super) async fn with_timeout<T>(
    timeout: Duration,
    operation: impl Future<Output = Result<T, lapin::Error>>,
) -> Result<T, BrokerError> {
    match tokio::time::timeout(timeout, operation).await {
        Ok(outcome) => outcome.map_err(broker_error),
        Err(_) => Err(BrokerError::Unavailable(format!("no reply within {timeout:?}").into())),
    }
}

/// The class of an error: the broker refused the operation with a reply, or the connection failed.
pub(super) fn broker_error(error: lapin::Error) -> BrokerError {
    match error.kind() {
        ErrorKind::ProtocolError(_) => BrokerError::Rejected(reply_text(&error).into()),
        _ => BrokerError::Unavailable(Cause::new(error)),
    }
}

/// The text of the broker's reply; without a reply, the client library's error.
pub(super) fn reply_text(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(reply) => reply.get_message().to_string(),
        _ => error_text(error),
    }
}

/// The code of the broker's reply with which it closed a channel or connection.
pub(super) fn reply_code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(reply) => Some(reply.get_id()),
        _ => None,
    }
}

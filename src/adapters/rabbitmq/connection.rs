//! Connections to the broker, with time limits, and the classes of their errors.
//!
//! The client library's recovery stays disabled, since it leaves consumers without deliveries: after an error the caller
//! connects again.

use std::{fmt, str::FromStr, time::Duration};

use async_rs::{Runtime, Tokio};
use lapin::{
    Channel, Connection, ConnectionProperties, ErrorKind,
    tcp::OwnedTLSConfig,
    uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism},
};
use secrecy::ExposeSecret as _;

use crate::{
    address::{AMQP, Host, InvalidUrl, ServerUrl},
    ports::{
        error::{BrokerError, Cause, error_text},
        queue::{QueueName, UNREADABLE},
    },
};

use super::{
    certificates::CertificateFiles,
    screen::Undecodable,
    screened,
    throttle::{ReadAllowance, ThrottledRuntime},
};

/// Time to wait for a connection, a channel or a declaration before the broker is considered unavailable.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The least time to wait for one of several nodes.
const NODE_TIMEOUT: Duration = Duration::from_secs(3);
/// The exchange that retries return to their queues through, without the namespace.
pub(super) const RETRIES: &str = "retries";
/// A half-open connection is detected after two intervals.
const HEARTBEAT_SECONDS: u16 = 10;

/// The broker and the namespace on it.
#[derive(Clone)]
pub struct RabbitConfig {
    /// The nodes of the broker; never empty.
    nodes: Vec<Node>,
    namespace: String,
    /// Whether the queues of commands deliver to one consumer at a time.
    pub(super) single_active_consumer: bool,
}

/// A node of the broker.
#[derive(Clone, Debug, PartialEq)]
struct Node {
    uri: AMQPUri,
    certificates: CertificateFiles,
}

/// Without the passwords.
impl fmt::Debug for RabbitConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes: Vec<_> = self.nodes.iter().map(|node| name_of(&node.uri)).collect();
        f.debug_struct("RabbitConfig")
            .field("nodes", &nodes)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

impl RabbitConfig {
    /// Parses an `amqp://` or `amqps://` URL, or a list of the nodes of one broker, separated by commas.
    ///
    /// # Errors
    /// The URL is invalid. The message does not contain it, since it may contain a password.
    pub fn new(url: &str, namespace: &str) -> Result<Self, BrokerError> {
        let nodes = nodes(url).map_err(|error| BrokerError::InvalidUrl(Cause::new(error)))?;
        Ok(Self { nodes, namespace: namespace.to_owned(), single_active_consumer: false })
    }

    /// The same, with queues of commands that deliver to one consumer at a time, if `single` is true.
    #[must_use]
    pub fn with_single_active_consumer(self, single: bool) -> Self {
        Self { single_active_consumer: single, ..self }
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

    /// The host of the broker, if it has one node.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        match self.nodes.as_slice() {
            [node] => Some(&node.uri.authority.host),
            _ => None,
        }
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

    /// The full name of the queue for the messages that the client library cannot decode. Nothing consumes it.
    #[must_use]
    pub fn unreadable_queue(&self, queue: QueueName) -> String {
        format!("{}{UNREADABLE}", self.queue(queue))
    }

    /// Opens a connection to the first node that accepts one, beginning with a random node. `purpose` is part of its name in
    /// the broker's lists.
    ///
    /// # Errors
    /// No node replies in time, or all refuse the connection.
    pub async fn connect(&self, purpose: &str) -> Result<Connection, BrokerError> {
        let open = |node, properties, tls| {
            let runtime = Runtime::new(Tokio::current());
            Connection::connect_uri_with_config(node, properties, tls, runtime)
        };
        self.connect_each(purpose, open).await
    }

    /// Opens a connection that reads within an allowance. The deliveries that cannot be decoded are in the set.
    pub(super) async fn connect_to_consume(
        &self,
        purpose: &str,
        allowance: &ReadAllowance,
        undecodable: &Undecodable,
    ) -> Result<Connection, BrokerError> {
        let open = |node, properties, tls| {
            let throttled = ThrottledRuntime::new(allowance.clone());
            screened::connect(node, properties, tls, throttled, undecodable.clone())
        };
        self.connect_each(purpose, open).await
    }

    /// How long a connection may take if each node may take so long.
    pub(super) fn connect_limit(&self, of_one: Duration) -> Duration {
        if self.nodes.len() == 1 { of_one } else { CONNECT_TIMEOUT }
    }

    async fn connect_each<F>(
        &self,
        purpose: &str,
        open: impl Fn(AMQPUri, ConnectionProperties, OwnedTLSConfig) -> F,
    ) -> Result<Connection, BrokerError>
    where
        F: Future<Output = Result<Connection, lapin::Error>>,
    {
        let count = self.nodes.len();
        let timeout = (CONNECT_TIMEOUT / u32::try_from(count).unwrap_or(u32::MAX)).max(NODE_TIMEOUT);
        let first = fastrand::usize(..count);
        let mut errors = Vec::new();
        for node in self.nodes.iter().cycle().skip(first).take(count) {
            let name = format!("{} {purpose}", self.namespace);
            let properties = ConnectionProperties::default().with_connection_name(name.into());
            let tls = node.certificates.read().await;
            let connected = match tls {
                Ok(tls) => with_timeout(timeout, open(node.uri.clone(), properties, tls)).await,
                Err(error) => Err(error),
            };
            match connected {
                Ok(connection) => return Ok(connection),
                Err(error) => errors.push((&node.uri, error)),
            }
        }
        Err(no_node(errors))
    }
}

/// The error of the only node, or those of all nodes with their names.
fn no_node(mut errors: Vec<(&AMQPUri, BrokerError)>) -> BrokerError {
    if errors.len() <= 1 {
        let unavailable = || BrokerError::Unavailable("it has no node".into());
        return errors.pop().map_or_else(unavailable, |(_, error)| error);
    }
    let texts: Vec<_> =
        errors.iter().map(|(node, error)| format!("{}: {}", name_of(node), error_text(error))).collect();
    let is_rejected = errors.iter().any(|(_, error)| matches!(error, BrokerError::Rejected(_)));
    let class = if is_rejected { BrokerError::Rejected } else { BrokerError::Unavailable };
    class(texts.join("; ").into())
}

/// Host and port of a node.
fn name_of(node: &AMQPUri) -> String {
    let AMQPAuthority { host, port, .. } = &node.authority;
    Host { name: host.clone(), port: Some(*port) }.to_string()
}

fn nodes(text: &str) -> Result<Vec<Node>, InvalidUrl> {
    let mut nodes = Vec::new();
    for url in ServerUrl::parse_all(text, &AMQP)? {
        for host in &url.hosts {
            nodes.push(node(&url, host)?);
        }
    }
    Ok(nodes)
}

/// What a URL leaves out has the value that RabbitMQ defines.
fn node(url: &ServerUrl, host: &Host) -> Result<Node, InvalidUrl> {
    let default = AMQPUri::default();
    let scheme = if url.scheme == "amqps" { AMQPScheme::AMQPS } else { AMQPScheme::AMQP };
    let AMQPUserInfo { username, password } = default.authority.userinfo;
    let password = url.password.as_ref().map_or(password, |password| password.expose_secret().to_owned());
    let mechanism = url.parameter("auth_mechanism").map(SASLMechanism::from_str).transpose();
    let certificates = CertificateFiles::of(url)?;
    let uri = AMQPUri {
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo { username: url.user.clone().unwrap_or(username), password },
            host: if host.name.is_empty() { default.authority.host } else { host.name.clone() },
            port: host.port.unwrap_or(scheme.default_port()),
        },
        scheme,
        vhost: url.path.clone().unwrap_or(default.vhost),
        query: AMQPQueryString {
            frame_max: number(url, "frame_max")?,
            channel_max: number(url, "channel_max")?,
            heartbeat: Some(number(url, "heartbeat")?.unwrap_or(HEARTBEAT_SECONDS)),
            connection_timeout: number(url, "connection_timeout")?,
            auth_mechanism: mechanism.map_err(|_| InvalidUrl::Value("auth_mechanism"))?,
        },
    };
    Ok(Node { uri, certificates })
}

fn number<T: FromStr>(url: &ServerUrl, name: &'static str) -> Result<Option<T>, InvalidUrl> {
    url.parameter(name).map(|value| value.parse().map_err(|_| InvalidUrl::Value(name))).transpose()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn only_node(url: &str) -> AMQPUri {
        let mut nodes = nodes(url).unwrap();
        assert_eq!(nodes.len(), 1, "{url}");
        nodes.remove(0).uri
    }

    #[test]
    fn a_node_has_what_its_url_says_and_the_defaults_of_the_broker() {
        let node =
            only_node("amqps://u%40x:p%3Ass%2Fw%25rd@[::2]:5672/v%2fh?heartbeat=30&auth_mechanism=external");
        assert_eq!((node.authority.host.as_str(), node.authority.port), ("::2", 5672));
        let AMQPUserInfo { username, password } = &node.authority.userinfo;
        assert_eq!((username.as_str(), password.as_str(), node.vhost.as_str()), ("u@x", "p:ss/w%rd", "v/h"));
        assert_eq!(
            (node.query.heartbeat, node.query.auth_mechanism),
            (Some(30), Some(SASLMechanism::External))
        );
        let node = only_node("amqp://");
        assert_eq!(node.authority, AMQPUri::default().authority);
        assert_eq!((node.vhost.as_str(), node.query.heartbeat), ("/", Some(10)));
        assert_eq!(only_node("amqp://h/").vhost, "");
        assert_eq!(only_node("amqps://h").authority.port, 5671);
    }

    #[test]
    fn a_list_names_the_nodes_of_one_broker() {
        let config = RabbitConfig::new("amqp://u:hunter2@a,[::1]:5673/v,amqps://b/w", "ns").unwrap();
        let printed = r#"RabbitConfig { nodes: ["a:5672", "[::1]:5673", "b:5671"], namespace: "ns", .. }"#;
        assert_eq!(format!("{config:?}"), printed);
        let vhosts: Vec<_> = config.nodes.iter().map(|node| node.uri.vhost.as_str()).collect();
        assert_eq!(vhosts, ["v", "v", "w"]);
    }

    #[test]
    fn a_parameter_with_an_invalid_value_is_an_error() {
        for (url, name) in [
            ("amqp://h?heartbeat=hunter2", "heartbeat"),
            ("amqp://h?channel_max=70000", "channel_max"),
            ("amqp://h?auth_mechanism=hunter2", "auth_mechanism"),
            ("amqps://h?certfile=/c", "keyfile"),
            ("amqps://h?keyfile=/k", "certfile"),
            ("amqp://h?cacertfile=/a", "cacertfile"),
        ] {
            assert_eq!(nodes(url), Err(InvalidUrl::Value(name)));
        }
    }
}

//! Decoded messages.

use std::sync::Arc;

use serde::{Deserialize, Deserializer};

use crate::domain::{Command, MessageKey, OrderId, OrderingKey, Quantity, ReadError, Sku};

/// The content of a message with the properties that handlers need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The key by which a duplicate is recognised.
    pub key: MessageKey,
    /// The content.
    pub content: Content,
    /// The correlation id of everything that follows from the message: the sender's, or else the message id.
    pub correlation_id: Arc<str>,
    /// The W3C trace that the message belongs to.
    pub traceparent: Option<Arc<str>>,
    /// What the systems of this trace add to its context.
    pub tracestate: Option<Arc<str>>,
}

/// What a message contains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A command.
    Command(Command),
    /// An event of this service that is sent as mail.
    OutOfStock(OutOfStockNotification),
}

/// The event `out_of_stock` as this service consumes it: a person is notified that a line is a backorder.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct OutOfStockNotification {
    /// The customer's order.
    pub orderid: OrderId,
    /// The product.
    pub sku: Sku,
    /// The quantity of the line.
    pub qty: Quantity,
}

impl OutOfStockNotification {
    /// The message type.
    pub const KIND: &'static str = "out_of_stock";
}

impl Content {
    /// The message type.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Command(command) => command.name(),
            Self::OutOfStock(_) => OutOfStockNotification::KIND,
        }
    }

    /// Messages with the same key are handled in order.
    #[must_use]
    pub fn partition_key(&self) -> &str {
        match self {
            Self::Command(command) => command.partition_key(),
            Self::OutOfStock(notification) => notification.orderid.as_str(),
        }
    }

    /// The line or the batch that a command is about.
    #[must_use]
    pub fn ordering_key(&self) -> Option<OrderingKey> {
        match self {
            Self::Command(command) => Some(command.ordering_key()),
            Self::OutOfStock(_) => None,
        }
    }

    /// Whether the message waits for earlier ones with its ordering key.
    #[must_use]
    pub fn keeps_order(&self) -> bool {
        matches!(self, Self::Command(command) if command.keeps_order())
    }

    /// Reads the body of a message of this type.
    ///
    /// # Errors
    /// As [`Command::read`].
    pub fn read<'de, D: Deserializer<'de>>(kind: &str, body: D) -> Result<Self, ReadError<D::Error>> {
        if kind == OutOfStockNotification::KIND {
            let notification = OutOfStockNotification::deserialize(body).map_err(ReadError::Body)?;
            return Ok(Self::OutOfStock(notification));
        }
        Command::read(kind, body).map(Self::Command)
    }
}

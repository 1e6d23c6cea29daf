//! Publishers of events, retries and commands.

use std::sync;

use async_trait::async_trait;
use lapin::{
    BasicProperties, ConnectionStatus,
    types::{AMQPValue, FieldTable},
};
use tokio::sync::Mutex;

use crate::{
    domain::{OutboxRow, PublishOutcome},
    ports::{
        admin::{CommandSender, OutboundCommand},
        error::error_text,
        failed_messages::DueRetry,
        outbox::Publisher,
    },
};

use super::{
    confirm_channel::{ConfirmChannel, OutboundMessage},
    connection::{RETRIES, RabbitConfig},
    properties::{PERSISTENT, TRACEPARENT, TRACESTATE, short, text_header},
    retry_properties::retry_properties,
    stored_properties,
};

/// A channel that is replaced, with its connection, after an error.
struct ReconnectingPublisher {
    broker: RabbitConfig,
    purpose: &'static str,
    open: Mutex<Option<ConfirmChannel>>,
    /// Of the last connection, also while a publication uses it.
    status: sync::Mutex<Option<ConnectionStatus>>,
}

impl ReconnectingPublisher {
    fn new(broker: RabbitConfig, purpose: &'static str) -> Self {
        Self { broker, purpose, open: Mutex::default(), status: sync::Mutex::default() }
    }

    async fn publish(&self, messages: &[OutboundMessage<'_>]) -> Vec<PublishOutcome> {
        let mut open = self.open.lock().await;
        let channel = match open.take() {
            Some(channel) => channel,
            None => match ConfirmChannel::open(&self.broker, self.purpose).await {
                Ok(channel) => {
                    *self.status() = Some(channel.status());
                    channel
                }
                Err(error) => return vec![PublishOutcome::Unknown(error_text(&error)); messages.len()],
            },
        };
        let outcomes = channel.publish(messages).await;
        if !outcomes
            .iter()
            .any(|outcome| matches!(outcome, PublishOutcome::Unknown(_) | PublishOutcome::Rejected(_)))
        {
            *open = Some(channel);
        }
        outcomes
    }

    fn is_blocked(&self) -> bool {
        self.status().as_ref().is_some_and(ConnectionStatus::blocked)
    }

    fn status(&self) -> sync::MutexGuard<'_, Option<ConnectionStatus>> {
        self.status.lock().unwrap_or_else(sync::PoisonError::into_inner)
    }
}

/// Publishes events and retries of commands.
pub struct RabbitPublisher {
    broker: RabbitConfig,
    events: ReconnectingPublisher,
    /// A channel of their own: an error of a retry does not close the channel of the events.
    retries: ReconnectingPublisher,
}

impl RabbitPublisher {
    /// A publisher that connects when it is first used.
    #[must_use]
    pub fn new(broker: RabbitConfig) -> Self {
        Self {
            events: ReconnectingPublisher::new(broker.clone(), "publishes events"),
            retries: ReconnectingPublisher::new(broker.clone(), "publishes retries"),
            broker,
        }
    }

    fn event<'a>(&self, row: &'a OutboxRow) -> OutboundMessage<'a> {
        let mut headers = FieldTable::default();
        headers.insert("causation_id".into(), AMQPValue::LongString(row.causation_id.as_str().into()));
        headers.insert("aggregate_id".into(), AMQPValue::LongString(row.sku.as_str().into()));
        headers.insert("sequence".into(), AMQPValue::LongLongInt(row.sequence));
        for (name, value) in [(TRACEPARENT, &row.traceparent), (TRACESTATE, &row.tracestate)] {
            if let Some(value) = value {
                headers.insert(name.into(), AMQPValue::LongString(value.as_str().into()));
            }
        }
        OutboundMessage {
            exchange: self.broker.named("events"),
            routing_key: row.name.clone(),
            body: row.body.as_bytes(),
            properties: json_message(&row.name, &row.event_id.to_string())
                .with_headers(headers)
                .with_correlation_id(short(&row.correlation_id))
                .with_app_id(self.broker.namespace().into())
                .with_timestamp(row.committed_at.unix_timestamp().unsigned_abs()),
        }
    }

    /// Returns to its queue through an exchange that only the relay publishes to. The queue is the routing key.
    fn retry<'a>(&self, retry: &'a DueRetry) -> OutboundMessage<'a> {
        OutboundMessage {
            exchange: self.broker.named(RETRIES),
            routing_key: self.broker.named(&retry.queue),
            body: &retry.body,
            properties: retry_properties(retry),
        }
    }
}

#[async_trait]
impl Publisher for RabbitPublisher {
    async fn publish(&self, rows: &[OutboxRow]) -> Vec<PublishOutcome> {
        let events: Vec<_> = rows.iter().map(|row| self.event(row)).collect();
        self.events.publish(&events).await
    }

    async fn publish_retries(&self, retries: &[DueRetry]) -> Vec<PublishOutcome> {
        let retries: Vec<_> = retries.iter().map(|retry| self.retry(retry)).collect();
        self.retries.publish(&retries).await
    }

    fn sender_context(&self, retry: &DueRetry) -> Option<String> {
        text_header(&stored_properties::decode(&retry.original), TRACEPARENT)
    }

    fn is_blocked(&self) -> bool {
        self.events.is_blocked() || self.retries.is_blocked()
    }
}

/// Publishes commands, for `allocation send`.
pub struct RabbitCommandSender {
    exchange: String,
    channel: ReconnectingPublisher,
}

impl RabbitCommandSender {
    /// A sender that connects when it is first used.
    #[must_use]
    pub fn new(broker: RabbitConfig) -> Self {
        Self {
            exchange: broker.named("commands"),
            channel: ReconnectingPublisher::new(broker, "sends commands"),
        }
    }

    fn command<'a>(&self, command: &'a OutboundCommand) -> OutboundMessage<'a> {
        OutboundMessage {
            exchange: self.exchange.clone(),
            routing_key: command.kind.clone(),
            body: &command.body,
            properties: json_message(&command.kind, &command.message_id),
        }
    }
}

#[async_trait]
impl CommandSender for RabbitCommandSender {
    async fn send(&self, commands: &[OutboundCommand]) -> Vec<PublishOutcome> {
        let commands: Vec<_> = commands.iter().map(|command| self.command(command)).collect();
        self.channel.publish(&commands).await
    }
}

fn json_message(kind: &str, message_id: &str) -> BasicProperties {
    BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(PERSISTENT)
        .with_type(short(kind))
        .with_message_id(short(message_id))
}

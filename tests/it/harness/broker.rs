//! Clients of the broker: a sender of messages, and an observer of all published events.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::StreamExt as _;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection,
    message::Delivery,
    options::{
        BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable, ShortString},
};
use serde_json::Value;

use super::commands::Command;

/// The maximum number of outstanding confirms.
const WINDOW: usize = 500;

/// The properties that clients set on a command.
pub(crate) fn properties(kind: &str, message_id: &str) -> BasicProperties {
    BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(2)
        .with_type(kind.into())
        .with_message_id(message_id.into())
}

/// A message with any properties and body.
#[derive(Clone, Debug)]
pub(crate) struct RawMessage {
    /// The exchange's full name; empty for the default exchange.
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Vec<u8>,
}

/// Publishes messages with confirms.
pub(crate) struct Sender {
    channel: Channel,
    commands: String,
}

impl Sender {
    pub(super) async fn open(connection: &Connection, namespace: &str) -> Self {
        let channel = connection.create_channel().await.expect("a channel opens");
        let confirms = channel.confirm_select(ConfirmSelectOptions::default()).await;
        confirms.expect("the broker confirms");
        Self { channel, commands: format!("{namespace}.commands") }
    }

    /// Sends a command and waits for its confirm.
    pub(crate) async fn send(&self, command: &Command) {
        self.send_all(std::slice::from_ref(command)).await;
    }

    /// Sends commands in order and waits for all confirms.
    pub(crate) async fn send_all(&self, commands: &[Command]) {
        let raw = commands.iter().map(|command| {
            let properties = properties(command.kind, &command.message_id);
            self.raw(command.kind, properties, command.body.to_string().as_bytes())
        });
        self.publish_all(&raw.collect::<Vec<_>>()).await;
    }

    /// Sends a message to the exchange for commands.
    pub(crate) async fn publish_raw(&self, routing_key: &str, properties: BasicProperties, body: &[u8]) {
        self.publish_all(&[self.raw(routing_key, properties, body)]).await;
    }

    /// Sends messages in order and waits for all confirms; each message must be routed to a queue.
    pub(crate) async fn publish_all(&self, messages: &[RawMessage]) {
        for window in messages.chunks(WINDOW) {
            let mut confirms = Vec::with_capacity(window.len());
            for message in window {
                confirms.push(self.publish(message).await.expect("the broker accepts messages"));
            }
            for confirm in confirms {
                let confirmation = confirm.await.expect("the broker confirms");
                assert_eq!(confirmation, Confirmation::Ack(None));
            }
        }
    }

    /// A message to the exchange for commands.
    pub(crate) fn raw(&self, routing_key: &str, properties: BasicProperties, body: &[u8]) -> RawMessage {
        RawMessage {
            exchange: self.commands.clone(),
            routing_key: routing_key.to_owned(),
            properties,
            body: body.to_vec(),
        }
    }

    async fn publish(&self, message: &RawMessage) -> Result<lapin::PublisherConfirm, lapin::Error> {
        let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        self.channel
            .basic_publish(
                message.exchange.as_str().into(),
                message.routing_key.as_str().into(),
                mandatory,
                &message.body,
                message.properties.clone(),
            )
            .await
    }
}

/// An event as a subscriber received it.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) routing_key: String,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Value,
}

impl Event {
    fn of(delivery: Delivery) -> Self {
        Self {
            routing_key: delivery.routing_key.to_string(),
            body: serde_json::from_slice(&delivery.data).unwrap_or_default(),
            properties: delivery.properties,
        }
    }

    /// The message id, which is the same in every publication of the event.
    pub(crate) fn id(&self) -> &str {
        self.properties.message_id().as_ref().map_or("", ShortString::as_str)
    }

    /// The name of the event.
    pub(crate) fn kind(&self) -> &str {
        self.properties.kind().as_ref().map_or("", ShortString::as_str)
    }

    /// The value of a header, as text.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        match self.properties.headers().as_ref()?.inner().get(name)? {
            AMQPValue::LongString(text) => Some(text.to_string()),
            AMQPValue::LongLongInt(number) => Some(number.to_string()),
            other => panic!("the header {name} is {other:?}"),
        }
    }

    /// The SKU.
    pub(crate) fn aggregate_id(&self) -> String {
        self.header("aggregate_id").expect("an event names its aggregate")
    }

    /// The number of the event within its SKU.
    pub(crate) fn sequence(&self) -> i64 {
        let sequence = self.header("sequence").and_then(|sequence| sequence.parse().ok());
        sequence.expect("an event has a sequence")
    }

    /// A text field of the body.
    pub(crate) fn field(&self, name: &str) -> &str {
        self.body[name].as_str().unwrap_or_default()
    }
}

/// A subscriber that receives every event from the start of the test.
pub(crate) struct Observer {
    seen: Arc<Mutex<Vec<Event>>>,
}

impl Observer {
    pub(super) async fn open(connection: &Connection, namespace: &str) -> Self {
        let channel = connection.create_channel().await.expect("a channel opens");
        let queue = format!("{namespace}.observer");
        let declared = channel
            .queue_declare(queue.as_str().into(), QueueDeclareOptions::durable(), FieldTable::default())
            .await;
        declared.expect("the queue is declared");
        let bound = channel
            .queue_bind(
                queue.as_str().into(),
                format!("{namespace}.events").into(),
                "#".into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await;
        bound.expect("the queue is bound");
        let unacknowledged = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let mut deliveries = channel
            .basic_consume(queue.as_str().into(), "observer".into(), unacknowledged, FieldTable::default())
            .await
            .expect("the queue can be consumed");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let collected = seen.clone();
        tokio::spawn(async move {
            let _keeps_open = channel;
            while let Some(Ok(delivery)) = deliveries.next().await {
                let event = Event::of(delivery);
                collected.lock().unwrap_or_else(PoisonError::into_inner).push(event);
            }
        });
        Self { seen }
    }

    /// All events so far, in the order of their arrival, including duplicates.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The number of events, without duplicates.
pub(crate) fn distinct(events: &[Event]) -> usize {
    events.iter().map(Event::id).collect::<HashSet<_>>().len()
}

/// Asserts that the events of each SKU arrive in the order 1, 2, 3 …, and that duplicates have the body of the first
/// arrival. Returns the number of duplicates.
pub(crate) fn assert_gapless(events: &[Event]) -> usize {
    let mut firsts: HashMap<&str, &Event> = HashMap::new();
    let mut last: HashMap<String, i64> = HashMap::new();
    for event in events {
        if let Some(first) = firsts.get(event.id()) {
            assert_eq!(first.body, event.body, "a duplicate has another body");
            continue;
        }
        firsts.insert(event.id(), event);
        let last = last.entry(event.aggregate_id()).or_default();
        assert_eq!(event.sequence(), *last + 1, "a gap, or not in order: {event:?}");
        *last += 1;
    }
    events.len() - firsts.len()
}

//! A subscriber to every event, from the beginning, which survives the broker.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use lapin::{
    Connection, ConnectionProperties,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::link::Link;

/// What is in flight to us at most.
const PREFETCH: u16 = 500;
/// How soon a lost subscription is made anew.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// An event as a subscriber got it.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// The same at every publication.
    pub(crate) id: String,
    pub(crate) kind: String,
    /// The message id of the command it follows from.
    pub(crate) causation_id: String,
    pub(crate) sku: String,
    pub(crate) sequence: i64,
    pub(crate) body: Value,
    /// It is the same copy that we were handed before, so no other publication.
    pub(crate) redelivered: bool,
}

impl Event {
    fn of(delivery: &Delivery) -> Option<Self> {
        let properties = &delivery.properties;
        let text = |value: &Option<ShortString>| value.as_ref().map(ToString::to_string);
        let header = |name: &str| match properties.headers().as_ref()?.inner().get(name)? {
            AMQPValue::LongString(text) => Some(text.to_string()),
            AMQPValue::LongLongInt(number) => Some(number.to_string()),
            _ => None,
        };
        Some(Self {
            id: text(properties.message_id())?,
            kind: text(properties.kind())?,
            causation_id: header("causation_id")?,
            sku: header("aggregate_id")?,
            sequence: header("sequence")?.parse().ok()?,
            body: serde_json::from_slice(&delivery.data).ok()?,
            redelivered: delivery.redelivered,
        })
    }

    /// A field of its body.
    pub(crate) fn field(&self, name: &str) -> &str {
        self.body[name].as_str().unwrap_or_default()
    }
}

/// Collects events until it is dropped.
pub(crate) struct Observer {
    seen: Arc<Mutex<Vec<Event>>>,
    watching: JoinHandle<()>,
}

impl Observer {
    /// Subscribes. The queue is a classic one: what is not acknowledged goes back to its place there, while a quorum
    /// queue without a limit puts it behind the others.
    pub(crate) async fn open(url: &str, namespace: &str) -> anyhow::Result<Self> {
        let queue = format!("{namespace}.observer");
        let link = Link::to(url);
        let channel = link.channel().await?;
        let (durable, nothing) = (QueueDeclareOptions::durable(), FieldTable::default());
        channel.queue_declare(queue.as_str().into(), durable, nothing).await?;
        let events = format!("{namespace}.events");
        let bind = QueueBindOptions::default();
        let bound =
            channel.queue_bind(queue.as_str().into(), events.into(), "#".into(), bind, FieldTable::default());
        bound.await?;
        let seen = Arc::default();
        let watching = tokio::spawn(watch(url.to_owned(), queue, Arc::clone(&seen)));
        Ok(Self { seen, watching })
    }

    /// Everything that has arrived, in the order of arrival, repeats included.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many different events have arrived.
    pub(crate) fn distinct(&self) -> usize {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().map(|event| event.id.as_str()).collect::<HashSet<_>>().len()
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

async fn watch(url: String, queue: String, seen: Arc<Mutex<Vec<Event>>>) {
    loop {
        let _lost = follow(&url, &queue, &seen).await;
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

async fn follow(url: &str, queue: &str, seen: &Mutex<Vec<Event>>) -> anyhow::Result<()> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let consume = BasicConsumeOptions::default();
    let mut deliveries =
        channel.basic_consume(queue.into(), "observer".into(), consume, FieldTable::default()).await?;
    while let Some(delivery) = deliveries.next().await {
        let delivery = delivery?;
        let event = Event::of(&delivery).context("an event has its properties and headers")?;
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        delivery.acker.ack(BasicAckOptions::default()).await?;
    }
    Ok(())
}

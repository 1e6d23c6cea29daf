//! A subscriber that receives every event from the start and reconnects after a broker failure.

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

use crate::broker_client::BrokerClient;

/// The largest number of unacknowledged events.
const PREFETCH: u16 = 500;
/// Delay before a lost subscription is opened again.
const RECONNECT_DELAY: Duration = Duration::from_millis(200);

/// A received event.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// The same for every publication of the event.
    pub(crate) id: String,
    pub(crate) kind: String,
    /// The message id of the command that caused it.
    pub(crate) causation_id: String,
    pub(crate) sku: String,
    pub(crate) sequence: i64,
    pub(crate) body: Value,
    /// The broker redelivered the same copy; this is not another publication.
    pub(crate) redelivered: bool,
}

impl Event {
    fn from_delivery(delivery: &Delivery) -> Option<Self> {
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

    /// A field of the body.
    pub(crate) fn field(&self, name: &str) -> &str {
        self.body[name].as_str().unwrap_or_default()
    }
}

/// Collects events until it is dropped.
pub(crate) struct Observer {
    received: Arc<Mutex<Vec<Event>>>,
    consumer_task: JoinHandle<()>,
}

impl Observer {
    /// Subscribes with a classic queue: it requeues an unacknowledged message at its original position. A quorum
    /// queue without a delivery limit appends it.
    pub(crate) async fn subscribe(url: &str, namespace: &str) -> anyhow::Result<Self> {
        let queue = format!("{namespace}.observer");
        let broker_client = BrokerClient::new(url);
        let channel = broker_client.channel().await?;
        let (durable, no_arguments) = (QueueDeclareOptions::durable(), FieldTable::default());
        channel.queue_declare(queue.as_str().into(), durable, no_arguments).await?;
        let events = format!("{namespace}.events");
        let bind = QueueBindOptions::default();
        let bound =
            channel.queue_bind(queue.as_str().into(), events.into(), "#".into(), bind, FieldTable::default());
        bound.await?;
        let received = Arc::default();
        let consumer_task = tokio::spawn(keep_consuming(url.to_owned(), queue, Arc::clone(&received)));
        Ok(Self { received, consumer_task })
    }

    /// All deliveries in the order of arrival, repeated events included.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The number of distinct events.
    pub(crate) fn distinct_count(&self) -> usize {
        let received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        received.iter().map(|event| event.id.as_str()).collect::<HashSet<_>>().len()
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.consumer_task.abort();
    }
}

async fn keep_consuming(url: String, queue: String, received: Arc<Mutex<Vec<Event>>>) {
    loop {
        let _lost = consume(&url, &queue, &received).await;
        tokio::time::sleep(RECONNECT_DELAY).await;
    }
}

async fn consume(url: &str, queue: &str, received: &Mutex<Vec<Event>>) -> anyhow::Result<()> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let consume = BasicConsumeOptions::default();
    let mut deliveries =
        channel.basic_consume(queue.into(), "observer".into(), consume, FieldTable::default()).await?;
    while let Some(delivery) = deliveries.next().await {
        let delivery = delivery?;
        let event =
            Event::from_delivery(&delivery).context("an event must have its properties and headers")?;
        received.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        delivery.acker.ack(BasicAckOptions::default()).await?;
    }
    Ok(())
}

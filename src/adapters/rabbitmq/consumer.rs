//! Subscriptions to quorum queues.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use futures_util::StreamExt;
use lapin::{
    Channel, Connection,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::{FieldTable, ShortString},
};
use tokio::sync::Mutex;
use tracing::debug;

use crate::ports::{
    error::{BrokerError, error_text},
    queue::{Acknowledger, Delivery, Message, Prefetch, QueueKind, QueueName, Queues, Subscription},
};

use super::{CONNECT_WITHIN, RabbitConfig, channel, properties, with_timeout};

/// Dead letters may be of any size, and there is no hurry.
const DEAD_LETTERS_AT_ONCE: u16 = 20;

/// Opens subscriptions on a broker.
pub struct RabbitQueues {
    broker: RabbitConfig,
    prefetch: u16,
}

impl RabbitQueues {
    /// Every subscription is handed at most `prefetch` messages before it settles some.
    #[must_use]
    pub fn new(broker: RabbitConfig, prefetch: u16) -> Self {
        Self { broker, prefetch }
    }
}

#[async_trait]
impl Queues for RabbitQueues {
    async fn subscribe(
        &self,
        queue: QueueName,
        stage: QueueKind,
        pace: Prefetch,
    ) -> Result<Box<dyn Subscription>, BrokerError> {
        let connection = self.broker.connect(&format!("consumes {}", queue.as_str())).await?;
        let channel = channel(&connection).await?;
        let prefetch = match (pace, stage) {
            (Prefetch::Configured, QueueKind::Main) => self.prefetch,
            (Prefetch::Configured, QueueKind::DeadLetter) => self.prefetch.min(DEAD_LETTERS_AT_ONCE),
            (Prefetch::One, _) => 1,
        };
        with_timeout(CONNECT_WITHIN, channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
        let name = match stage {
            QueueKind::Main => self.broker.queue(queue),
            QueueKind::DeadLetter => self.broker.dead_letter_queue(queue),
        };
        let consume = BasicConsumeOptions::default();
        let consumer = channel.basic_consume(name.as_str().into(), "".into(), consume, FieldTable::default());
        let consumer = with_timeout(CONNECT_WITHIN, consumer).await?;
        let acknowledger = Arc::new(RabbitAcknowledger {
            channel,
            tags: Mutex::default(),
            hold_at_most: usize::from(prefetch) / 2,
        });
        Ok(Box::new(RabbitSubscription { connection, stage, consumer, acknowledger }))
    }
}

struct RabbitSubscription {
    connection: Connection,
    stage: QueueKind,
    consumer: lapin::Consumer,
    acknowledger: Arc<RabbitAcknowledger>,
}

#[async_trait]
impl Subscription for RabbitSubscription {
    async fn next(&mut self) -> Result<Delivery, BrokerError> {
        match self.consumer.next().await {
            Some(Ok(delivery)) => Ok(self.acknowledger.register(delivery, self.stage).await),
            Some(Err(error)) => Err(super::broker_error(error)),
            // The server cancels a consumer whose queue is deleted or moved, and says so only by silence.
            None => Err(BrokerError::Unavailable("the server cancelled the subscription".into())),
        }
    }

    fn acknowledger(&self) -> Arc<dyn Acknowledger> {
        self.acknowledger.clone()
    }

    /// Neither `basic.cancel` nor `basic.nack`: with either, the broker requeues in another order what is left. A closed
    /// connection keeps the order, and counts as one more delivery of each message.
    async fn close(self: Box<Self>) {
        let ended = async {
            self.acknowledger.acknowledge_held().await?;
            self.connection.close(200, "stopped".into()).await
        };
        if let Err(error) = with_timeout(CONNECT_WITHIN, ended).await {
            debug!(
                error = error_text(&error),
                "a subscription did not end in order; the broker takes back what is left"
            );
        }
    }
}

/// Acknowledges in as few frames as order allows.
struct RabbitAcknowledger {
    channel: Channel,
    tags: Mutex<AckTracker>,
    /// So many finished deliveries may wait for an older one before each is acknowledged by itself.
    hold_at_most: usize,
}

#[derive(Default)]
struct AckTracker {
    /// Deliveries in somebody's hands.
    open: BTreeSet<u64>,
    /// Finished ones that an older open one keeps from being acknowledged together.
    held: BTreeSet<u64>,
}

impl AckTracker {
    /// The tag up to which everything is finished, if that says anything new.
    fn contiguous_ack(&mut self) -> Option<u64> {
        let last = match self.open.first() {
            Some(oldest_open) => self.held.range(..oldest_open).next_back().copied()?,
            None => self.held.last().copied()?,
        };
        self.held = self.held.split_off(&(last + 1));
        Some(last)
    }
}

impl RabbitAcknowledger {
    async fn register(&self, delivery: lapin::message::Delivery, stage: QueueKind) -> Delivery {
        let (tag, redelivered) = (delivery.delivery_tag, delivery.redelivered);
        self.tags.lock().await.open.insert(tag);
        Delivery { tag, redelivered, message: message(delivery, stage) }
    }

    /// The lock is held while frames are written: an acknowledgement up to a tag must not overtake another.
    async fn write(&self, finished: &[u64]) -> Result<(), lapin::Error> {
        let mut tags = self.tags.lock().await;
        for tag in finished {
            tags.open.remove(tag);
            tags.held.insert(*tag);
        }
        if let Some(tag) = tags.contiguous_ack() {
            self.channel.basic_ack(tag, BasicAckOptions { multiple: true }).await?;
        }
        if tags.held.len() > self.hold_at_most {
            drop(tags);
            self.acknowledge_held().await?;
        }
        Ok(())
    }

    async fn acknowledge_held(&self) -> Result<(), lapin::Error> {
        for tag in std::mem::take(&mut self.tags.lock().await.held) {
            self.channel.basic_ack(tag, BasicAckOptions { multiple: false }).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Acknowledger for RabbitAcknowledger {
    async fn ack(&self, tags: &[u64]) {
        if let Err(error) = self.write(tags).await {
            debug!(
                error = error_text(&error),
                count = tags.len(),
                "not settled; they will be delivered again"
            );
        }
    }

    fn is_closed(&self) -> bool {
        !self.channel.status().connected()
    }
}

/// Without a type, the routing key says it: of a dead-lettered message, the one it was sent with.
fn message(delivery: lapin::message::Delivery, stage: QueueKind) -> Message {
    let properties = delivery.properties;
    let text_of = |value: &Option<ShortString>| value.as_ref().map(ToString::to_string);
    let sent_with = || match stage {
        QueueKind::Main => None,
        QueueKind::DeadLetter => properties::first_routing_key(&properties),
    };
    let kind = text_of(properties.kind()).or_else(sent_with);
    Message {
        kind: kind.unwrap_or_else(|| delivery.routing_key.to_string()),
        message_id: text_of(properties.message_id()),
        correlation_id: text_of(properties.correlation_id()),
        traceparent: properties::text_header(&properties, properties::TRACEPARENT),
        content_type: text_of(properties.content_type()),
        content_encoding: text_of(properties.content_encoding()),
        header_bytes: properties::size(&properties),
        retry: properties::retry_mark(&properties),
        death_reason: properties::death_reason(&properties),
        body: delivery.data,
        original: Some(Arc::new(properties::AmqpProperties(properties))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(open: &[u64], held: &[u64]) -> AckTracker {
        AckTracker { open: open.iter().copied().collect(), held: held.iter().copied().collect() }
    }

    #[test]
    fn only_what_is_older_than_every_open_delivery_is_acknowledged_together() {
        let mut some = tags(&[3, 7], &[1, 2, 4, 5]);
        assert_eq!(some.contiguous_ack(), Some(2));
        assert_eq!(some.contiguous_ack(), None);
        some.open.remove(&3);
        assert_eq!(some.contiguous_ack(), Some(5));
        assert_eq!(tags(&[], &[4, 9]).contiguous_ack(), Some(9));
        assert_eq!(tags(&[1], &[2]).contiguous_ack(), None);
    }
}

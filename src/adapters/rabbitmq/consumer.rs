//! Subscriptions to quorum queues.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::StreamExt;
use lapin::{
    Channel, Connection,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions},
    types::FieldTable,
};
use tokio::time::sleep;
use tracing::{debug, warn};

use crate::ports::{
    error::{BrokerError, error_text},
    queue::{Acknowledger, Delivery, FlowControl, Message, QueueKind, QueueName, Queues, Subscription},
};

use super::{
    ack_tracker::AckTracker,
    connection::{CONNECT_TIMEOUT, RabbitConfig, broker_error, open_channel, with_timeout},
    properties,
    received_message::received_message,
    screen::Undecodable,
    throttle::ReadAllowance,
};

/// The pause before an undecodable message is returned to its dead-letter queue, and after many of them: a dead-letter queue
/// that was declared by an earlier version has no delivery limit.
const RETURN_PAUSE: Duration = Duration::from_millis(2);
const LONG_RETURN_PAUSE: Duration = Duration::from_secs(1);
/// The number of returned messages of a subscription after which the pause is long.
const MANY_RETURNED: u64 = 20_000;

/// Opens subscriptions on a broker.
pub struct RabbitQueues(pub RabbitConfig);

#[async_trait]
impl Queues for RabbitQueues {
    async fn subscribe(
        &self,
        queue: QueueName,
        queue_kind: QueueKind,
        prefetch: u16,
        bytes: usize,
    ) -> Result<Box<dyn Subscription>, BrokerError> {
        let purpose = format!("consumes {}", queue.as_str());
        let allowance = ReadAllowance::of(bytes);
        let undecodable = Undecodable::default();
        let connecting = self.0.connect_to_consume(&purpose, &allowance, &undecodable);
        let connection = connecting.await.map_err(without_connection)?;
        let channel = open_channel(&connection).await?;
        with_timeout(CONNECT_TIMEOUT, channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
        let (name, next_queue) = match queue_kind {
            QueueKind::Main => (self.0.queue(queue), self.0.dead_letter_queue(queue)),
            QueueKind::DeadLetter => (self.0.dead_letter_queue(queue), self.0.unreadable_queue(queue)),
        };
        let consume = BasicConsumeOptions::default();
        let consumer = channel.basic_consume(name.as_str().into(), "".into(), consume, FieldTable::default());
        let consumer = with_timeout(CONNECT_TIMEOUT, consumer).await?;
        let acknowledger = Arc::new(RabbitAcknowledger {
            channel,
            tags: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
            max_held: usize::from(prefetch) / 2,
        });
        let undecodable = UndecodableDeliveries { set: undecodable, name, next_queue, count: 0 };
        Ok(Box::new(RabbitSubscription {
            connection,
            queue_kind,
            consumer,
            allowance,
            acknowledger,
            undecodable,
        }))
    }
}

/// A broker that refuses the login is unavailable for every queue.
fn without_connection(error: BrokerError) -> BrokerError {
    match error {
        BrokerError::Rejected(cause) => BrokerError::Unavailable(cause),
        error => error,
    }
}

struct RabbitSubscription {
    connection: Connection,
    queue_kind: QueueKind,
    consumer: lapin::Consumer,
    allowance: ReadAllowance,
    acknowledger: Arc<RabbitAcknowledger>,
    undecodable: UndecodableDeliveries,
}

/// The deliveries of a subscription that the client library cannot decode.
struct UndecodableDeliveries {
    set: Undecodable,
    /// The queue.
    name: String,
    /// The queue that the broker moves them to.
    next_queue: String,
    /// Their number, with redeliveries.
    count: u64,
}

#[async_trait]
impl Subscription for RabbitSubscription {
    async fn next(&mut self) -> Result<Delivery, BrokerError> {
        loop {
            match self.consumer.next().await {
                // Nothing is awaited below: a cancelled wait would lose the delivery.
                Some(Ok(delivery)) if self.undecodable.set.take(delivery.delivery_tag) => {
                    self.pass_on(delivery.delivery_tag, delivery.redelivered);
                }
                Some(Ok(delivery)) => return Ok(self.acknowledger.register(delivery, self.queue_kind)),
                Some(Err(error)) => return Err(broker_error(error)),
                // The server cancels a consumer whose queue is deleted or moved; the stream then ends without an error.
                None => return Err(BrokerError::Unavailable("the server cancelled the subscription".into())),
            }
        }
    }

    fn flow_control(&self) -> Option<Arc<dyn FlowControl>> {
        Some(Arc::new(self.allowance.clone()))
    }

    fn acknowledger(&self) -> Arc<dyn Acknowledger> {
        self.acknowledger.clone()
    }

    /// Closes the connection. After `basic.cancel` or `basic.nack` the broker would requeue the unacknowledged messages in
    /// another order; a closed connection keeps their order, and counts as one more delivery of each.
    async fn close(self: Box<Self>) {
        let ended = async {
            self.acknowledger.acknowledge_held().await?;
            self.connection.close(200, "stopped".into()).await
        };
        if let Err(error) = with_timeout(CONNECT_TIMEOUT, ended).await {
            debug!(
                error = error_text(&error),
                "subscription closed with an error; the broker requeues its messages"
            );
        }
    }
}

impl RabbitSubscription {
    /// Has the broker move an undecodable message to the next queue, with its properties. Every other message keeps its place.
    ///
    /// A queue dead-letters a rejected message. A dead-letter queue that was declared by an earlier version would drop it;
    /// therefore it is returned until it exceeds the delivery limit.
    fn pass_on(&mut self, tag: u64, redelivered: bool) {
        let UndecodableDeliveries { name: queue, next_queue, count, .. } = &mut self.undecodable;
        *count += 1;
        if self.queue_kind == QueueKind::Main || !redelivered {
            warn!(
                queue,
                next_queue,
                "message has properties that are not UTF-8 and cannot be decoded; the broker moves it to the next queue"
            );
        }
        let requeue = self.queue_kind == QueueKind::DeadLetter;
        let pause = match (requeue, *count) {
            (false, _) => Duration::ZERO,
            (true, ..=MANY_RETURNED) => RETURN_PAUSE,
            (true, _) => LONG_RETURN_PAUSE,
        };
        self.acknowledger.tags().register(tag);
        let acknowledger = self.acknowledger.clone();
        tokio::spawn(async move {
            sleep(pause).await;
            acknowledger.reject(tag, requeue).await;
        });
    }
}

/// Acknowledges in as few frames as the order of the deliveries allows.
struct RabbitAcknowledger {
    channel: Channel,
    tags: Mutex<AckTracker>,
    /// Held while frames are written: an acknowledgement up to a tag must not overtake another one.
    writing: tokio::sync::Mutex<()>,
    /// The number of processed deliveries that may wait for an older one before each is acknowledged separately.
    max_held: usize,
}

impl RabbitAcknowledger {
    fn register(&self, delivery: lapin::message::Delivery, queue_kind: QueueKind) -> Delivery {
        let (tag, redelivered) = (delivery.delivery_tag, delivery.redelivered);
        self.tags().register(tag);
        Delivery { tag, redelivered, message: message(delivery, queue_kind) }
    }

    async fn write(&self, finished: &[u64]) -> Result<(), lapin::Error> {
        let _writing = self.writing.lock().await;
        let (contiguous, held) = self.finish(finished);
        if let Some(tag) = contiguous {
            self.channel.basic_ack(tag, BasicAckOptions { multiple: true }).await?;
        }
        self.write_each(&held).await
    }

    /// The tag up to which all deliveries are finished, and others that are to be acknowledged separately.
    fn finish(&self, finished: &[u64]) -> (Option<u64>, BTreeSet<u64>) {
        let mut tags = self.tags();
        tags.finish(finished);
        let contiguous = tags.contiguous_ack();
        let held = if tags.held() > self.max_held { tags.take_held() } else { BTreeSet::new() };
        (contiguous, held)
    }

    /// Rejects a registered delivery. Until that is written, no acknowledgement includes it.
    async fn reject(&self, tag: u64, requeue: bool) {
        let _writing = self.writing.lock().await;
        if let Err(error) = self.channel.basic_reject(tag, BasicRejectOptions { requeue }).await {
            debug!(error = error_text(&error), "rejection failed; the message will be redelivered");
        }
        self.tags().forget(tag);
    }

    async fn acknowledge_held(&self) -> Result<(), lapin::Error> {
        let _writing = self.writing.lock().await;
        let held = self.tags().take_held();
        self.write_each(&held).await
    }

    async fn write_each(&self, tags: &BTreeSet<u64>) -> Result<(), lapin::Error> {
        for tag in tags {
            self.channel.basic_ack(*tag, BasicAckOptions { multiple: false }).await?;
        }
        Ok(())
    }

    fn tags(&self) -> MutexGuard<'_, AckTracker> {
        self.tags.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Acknowledger for RabbitAcknowledger {
    async fn ack(&self, tags: &[u64]) {
        if let Err(error) = self.write(tags).await {
            debug!(
                error = error_text(&error),
                count = tags.len(),
                "acknowledgement failed; the messages will be redelivered"
            );
        }
    }

    fn is_closed(&self) -> bool {
        !self.channel.status().connected()
    }
}

/// A message without a type has its routing key as type; a dead-lettered message the key with which it was published.
fn message(delivery: lapin::message::Delivery, queue_kind: QueueKind) -> Message {
    let properties = delivery.properties;
    let published_with = || match queue_kind {
        QueueKind::Main => None,
        QueueKind::DeadLetter => properties::first_routing_key(&properties),
    };
    let kind = published_with().unwrap_or_else(|| delivery.routing_key.to_string());
    received_message(properties, &kind, delivery.data.into())
}

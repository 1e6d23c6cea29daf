//! Senders and subscribers.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use futures_util::StreamExt as _;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, Consumer, PublisherConfirm,
    message::Delivery,
    options::{
        BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeleteOptions,
        QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
    },
    types::{AMQPValue, FieldTable},
};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::{commands::Command, process::Running};

/// Outstanding confirms while a queue is filled: enough to keep the broker busy.
const WINDOW: usize = 1000;
/// The interval between reads of the length of the event queue; a measurement takes seconds.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Time without an event after which a measurement fails.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);
/// The queues of a namespace; the last two are those of the benchmark.
const QUEUES: [&str; 11] = [
    "orders",
    "orders.dlq",
    "orders.unreadable",
    "stock",
    "stock.dlq",
    "stock.unreadable",
    "notifications",
    "notifications.dlq",
    "notifications.unreadable",
    "observer",
    "alone",
];
const EXCHANGES: [&str; 4] = ["commands", "events", "dead-letters", "retries"];

/// Declares a quorum queue.
pub(crate) async fn declare(channel: &Channel, queue: &str) -> anyhow::Result<()> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments).await?;
    Ok(())
}

/// Deletes the queues and exchanges of a namespace, if they exist.
pub(crate) async fn remove(connection: &Connection, namespace: &str) -> anyhow::Result<()> {
    let channel = connection.create_channel().await?;
    for queue in QUEUES {
        channel.queue_delete(format!("{namespace}.{queue}").into(), QueueDeleteOptions::default()).await?;
    }
    for exchange in EXCHANGES {
        let name = format!("{namespace}.{exchange}");
        channel.exchange_delete(name.into(), ExchangeDeleteOptions::default()).await?;
    }
    Ok(())
}

/// Publishes persistent messages with confirms.
pub(crate) struct Sender {
    channel: Channel,
    namespace: String,
}

impl Sender {
    pub(crate) async fn open(connection: &Connection, namespace: &str) -> anyhow::Result<Self> {
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { channel, namespace: namespace.to_owned() })
    }

    /// Publishes a command; its confirm is pending.
    pub(crate) async fn publish(&self, command: &Command) -> anyhow::Result<PublisherConfirm> {
        self.publish_to(&format!("{}.commands", self.namespace), command.kind, command).await
    }

    /// Publishes to any exchange; the one without a name routes to the queue with the name of the routing key.
    pub(crate) async fn publish_to(
        &self,
        exchange: &str,
        routing_key: &str,
        command: &Command,
    ) -> anyhow::Result<PublisherConfirm> {
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(2)
            .with_type(command.kind.into())
            .with_message_id(command.message_id.as_str().into());
        let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let body = command.body.to_string();
        let publish = self.channel.basic_publish(
            exchange.into(),
            routing_key.into(),
            mandatory,
            body.as_bytes(),
            properties,
        );
        publish.await.context("the broker does not accept messages")
    }

    /// Publishes commands and waits for all confirms, with many in flight.
    pub(crate) async fn send_all(&self, commands: impl Iterator<Item = Command>) -> anyhow::Result<()> {
        let mut in_flight = VecDeque::with_capacity(WINDOW);
        for command in commands {
            if in_flight.len() == WINDOW
                && let Some(oldest) = in_flight.pop_front()
            {
                confirmed(oldest).await?;
            }
            in_flight.push_back(self.publish(&command).await?);
        }
        for confirm in in_flight {
            confirmed(confirm).await?;
        }
        Ok(())
    }
}

/// Waits for the confirm; an error if the message is in no queue.
pub(crate) async fn confirmed(confirm: PublisherConfirm) -> anyhow::Result<()> {
    let confirmation = confirm.await.context("the broker did not confirm")?;
    ensure!(confirmation == Confirmation::Ack(None), "the broker rejected a message: {confirmation:?}");
    Ok(())
}

/// A quorum queue with the `allocated` events.
///
/// It has no consumer while events are counted: a hundred reads of its length per second cost the broker and the benchmark
/// less than the delivery of every event, and they share the cores with the program. A classic queue without a consumer
/// would keep its messages in the memory of one process and spend a third of a measurement on garbage collection.
pub(crate) struct Observer {
    channel: Channel,
    queue: String,
}

impl Observer {
    /// A queue bound to the exchange of events, which must exist.
    pub(crate) async fn bind(connection: &Connection, namespace: &str) -> anyhow::Result<Self> {
        let channel = connection.create_channel().await?;
        let (queue, exchange) = (format!("{namespace}.observer"), format!("{namespace}.events"));
        declare(&channel, &queue).await?;
        let (bind, key) = (QueueBindOptions::default(), "allocated".into());
        channel.queue_bind(queue.as_str().into(), exchange.into(), key, bind, FieldTable::default()).await?;
        Ok(Self { channel, queue })
    }

    /// Waits for a number of events, and returns the time when it was reached.
    pub(crate) async fn wait_for(&self, events: u32, running: &mut Running) -> anyhow::Result<Instant> {
        let mut ticks = interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut last, mut grew) = (0, Instant::now());
        loop {
            ticks.tick().await;
            let count = self.count().await?;
            if count >= events {
                return Ok(Instant::now());
            }
            if count > last {
                (last, grew) = (count, Instant::now());
            }
            running.ensure_alive()?;
            ensure!(
                grew.elapsed() < GIVE_UP_AFTER,
                "{count} of {events} events arrived, and none for {GIVE_UP_AFTER:?}; the log ends with\n{}",
                running.log()
            );
        }
    }

    async fn count(&self) -> anyhow::Result<u32> {
        let options = QueueDeclareOptions::durable().passive();
        let state = self.channel.queue_declare(self.queue.as_str().into(), options, FieldTable::default());
        Ok(state.await?.message_count())
    }

    /// Discards the present events and consumes the later ones.
    pub(crate) async fn subscribe(&self) -> anyhow::Result<Events> {
        self.channel.queue_purge(self.queue.as_str().into(), QueuePurgeOptions::default()).await?;
        let no_ack = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let queue = self.queue.as_str().into();
        let events = self.channel.basic_consume(queue, "".into(), no_ack, FieldTable::default()).await?;
        Ok(Events { events, _keeps_open: self.channel.clone() })
    }
}

/// Events as they arrive.
pub(crate) struct Events {
    events: Consumer,
    /// The subscription ends when its channel is dropped.
    _keeps_open: Channel,
}

impl Events {
    /// The next event.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Delivery> {
        let next = timeout(GIVE_UP_AFTER, self.events.next()).await;
        let next = next.with_context(|| format!("no event arrived for {GIVE_UP_AFTER:?}"))?;
        next.context("the broker ended the subscription")?.context("the subscription failed")
    }
}

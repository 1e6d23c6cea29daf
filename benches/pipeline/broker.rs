//! The broker as senders and subscribers see it.

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

/// Confirms that may be outstanding while a queue is filled: enough to keep the broker busy.
const WINDOW: usize = 1000;
/// How often the queue of events is asked for its length: what is measured takes seconds.
const ASK_EVERY: Duration = Duration::from_millis(10);
/// If nothing arrives for so long, nothing will.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);
/// What belongs to a namespace; the last two are ours.
const QUEUES: [&str; 8] =
    ["orders", "orders.dlq", "stock", "stock.dlq", "notifications", "notifications.dlq", "observer", "alone"];
const EXCHANGES: [&str; 3] = ["commands", "events", "dead-letters"];

/// Declares a quorum queue.
pub(crate) async fn declare(channel: &Channel, queue: &str) -> anyhow::Result<()> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments).await?;
    Ok(())
}

/// Deletes everything of a namespace, whether it is there or not.
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

/// Publishes, persistent and confirmed.
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

    /// Hands over a command; the confirm is still to come.
    pub(crate) async fn publish(&self, command: &Command) -> anyhow::Result<PublisherConfirm> {
        self.publish_to(&format!("{}.commands", self.namespace), command.kind, command).await
    }

    /// The same to any exchange; the one without a name leads to the queue that the routing key names.
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
        publish.await.context("the broker takes no messages")
    }

    /// Sends commands and waits until the broker has all of them, many in flight.
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

/// Waits until the broker has what was published, in a queue.
pub(crate) async fn confirmed(confirm: PublisherConfirm) -> anyhow::Result<()> {
    let confirmation = confirm.await.context("the broker did not confirm")?;
    ensure!(confirmation == Confirmation::Ack(None), "the broker did not take a message: {confirmation:?}");
    Ok(())
}

/// A quorum queue of the events that say `allocated`.
///
/// While commands are counted nobody consumes it: to ask a hundred times a second how long it is costs broker and bench
/// less than to hand over every event, and they share the cores with what is measured. A classic queue would keep what
/// nobody consumes in the memory of one process, and spend a third of a measurement on collecting its garbage.
pub(crate) struct Observer {
    channel: Channel,
    queue: String,
}

impl Observer {
    /// A queue bound to the exchange of events, which is there.
    pub(crate) async fn bind(connection: &Connection, namespace: &str) -> anyhow::Result<Self> {
        let channel = connection.create_channel().await?;
        let (queue, exchange) = (format!("{namespace}.observer"), format!("{namespace}.events"));
        declare(&channel, &queue).await?;
        let (bind, key) = (QueueBindOptions::default(), "allocated".into());
        channel.queue_bind(queue.as_str().into(), exchange.into(), key, bind, FieldTable::default()).await?;
        Ok(Self { channel, queue })
    }

    /// Waits until so many events are there, and says when that was.
    pub(crate) async fn wait_for(&self, events: u32, running: &mut Running) -> anyhow::Result<Instant> {
        let mut pace = interval(ASK_EVERY);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut last, mut grew) = (0, Instant::now());
        loop {
            pace.tick().await;
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

    /// Forgets what is there and hands over what comes from now on.
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
    /// A subscription ends with its channel.
    _keeps_open: Channel,
}

impl Events {
    /// The next one.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Delivery> {
        let next = timeout(GIVE_UP_AFTER, self.events.next()).await;
        let next = next.with_context(|| format!("no event arrived for {GIVE_UP_AFTER:?}"))?;
        next.context("the broker ended the subscription")?.context("the subscription is lost")
    }
}

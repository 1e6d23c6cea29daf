//! The connection of the tests to the broker. It is reopened after a fault.

use std::time::{Duration, Instant};

use anyhow::bail;
use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{ConfirmSelectOptions, QueueDeclareOptions},
    types::FieldTable,
};
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};

use crate::wait::POLL;

/// A broker that does not accept a connection within this time is unavailable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A restarted broker replies within this time.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// RabbitMQ 3.10 reports 0 messages for a quorum queue that does not reply within 250 ms.
const RELIABLE_REPLY_TIME: Duration = Duration::from_millis(240);
/// It also reports 0 for a queue without a leader, at once: only a repeated 0 is reliable.
const CONFIRM_EMPTY_AFTER: Duration = Duration::from_millis(300);

/// A channel in confirm mode on a connection of its own.
pub(crate) struct BrokerClient {
    url: String,
    current: Mutex<Option<(Connection, Channel)>>,
}

impl BrokerClient {
    pub(crate) fn new(url: &str) -> Self {
        Self { url: url.to_owned(), current: Mutex::new(None) }
    }

    /// The channel; a new one if the last one was closed.
    pub(crate) async fn channel(&self) -> anyhow::Result<Channel> {
        let mut current = self.current.lock().await;
        if let Some((connection, channel)) = &*current
            && connection.status().connected()
            && channel.status().connected()
        {
            return Ok(channel.clone());
        }
        *current = None;
        let connecting = Connection::connect(&self.url, ConnectionProperties::default());
        let connection = timeout(CONNECT_TIMEOUT, connecting).await??;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        *current = Some((connection, channel.clone()));
        Ok(channel)
    }

    /// After an error: the next call opens a new channel.
    pub(crate) async fn disconnect(&self) {
        *self.current.lock().await = None;
    }

    /// The number of ready messages in a queue. It is 0 only if the broker reports 0 repeatedly.
    pub(crate) async fn ready_messages(&self, queue: &str) -> anyhow::Result<u32> {
        let begin = Instant::now();
        loop {
            let last = begin.elapsed() >= CONFIRM_EMPTY_AFTER;
            let ready = self.poll_ready_messages(queue).await?;
            if ready > 0 || last {
                return Ok(ready);
            }
            sleep(POLL * 10).await;
        }
    }

    /// One reading, for a queue that is known to have a leader. Repeated while the broker is unavailable.
    pub(crate) async fn poll_ready_messages(&self, queue: &str) -> anyhow::Result<u32> {
        let begin = Instant::now();
        loop {
            let timed_out = begin.elapsed() > REPLY_TIMEOUT;
            match self.try_read_ready(queue).await {
                Ok(Some(ready)) => return Ok(ready),
                Ok(None) if timed_out => {
                    bail!("{queue}: the broker is too busy for a reliable message count")
                }
                Ok(None) => {}
                Err(error) if timed_out => return Err(error.context(format!("{queue}: no reply"))),
                Err(_) => self.disconnect().await,
            }
            sleep(POLL * 4).await;
        }
    }

    /// The number of consumers of a queue.
    pub(crate) async fn consumer_count(&self, queue: &str) -> anyhow::Result<u32> {
        let channel = self.channel().await?;
        let passive = QueueDeclareOptions::durable().passive();
        let declared = channel.queue_declare(queue.into(), passive, FieldTable::default());
        Ok(timeout(CONNECT_TIMEOUT, declared).await??.consumer_count())
    }

    /// The number of ready messages that the broker reports; `None` if the number is not reliable.
    async fn try_read_ready(&self, queue: &str) -> anyhow::Result<Option<u32>> {
        let channel = self.channel().await?;
        let begin = Instant::now();
        let passive = QueueDeclareOptions::durable().passive();
        let declared = channel.queue_declare(queue.into(), passive, FieldTable::default());
        let ready = timeout(CONNECT_TIMEOUT, declared).await??.message_count();
        Ok(Some(ready).filter(|ready| *ready > 0 || begin.elapsed() < RELIABLE_REPLY_TIME))
    }
}

//! Our own way to the broker, which is made anew whenever a fault has taken it.

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

/// A broker that needs longer is away.
const CONNECTS_WITHIN: Duration = Duration::from_secs(10);

/// A broker that was restarted, or has thrown us out, answers again within this time.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);
/// A quorum queue of RabbitMQ 3.10 that does not say within 250 ms what it holds is said to hold nothing.
const KNOWS_WITHIN: Duration = Duration::from_millis(240);
/// One without a leader is said to hold nothing as well, and at once: a queue that is empty stays so for a while.
const SURE_AFTER: Duration = Duration::from_millis(300);

/// A channel in confirm mode on a connection of its own.
pub(crate) struct Link {
    url: String,
    open: Mutex<Option<(Connection, Channel)>>,
}

impl Link {
    pub(crate) fn to(url: &str) -> Self {
        Self { url: url.to_owned(), open: Mutex::new(None) }
    }

    /// The channel, new if the last one is gone.
    pub(crate) async fn channel(&self) -> anyhow::Result<Channel> {
        let mut open = self.open.lock().await;
        if let Some((connection, channel)) = &*open
            && connection.status().connected()
            && channel.status().connected()
        {
            return Ok(channel.clone());
        }
        *open = None;
        let connecting = Connection::connect(&self.url, ConnectionProperties::default());
        let connection = timeout(CONNECTS_WITHIN, connecting).await??;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        *open = Some((connection, channel.clone()));
        Ok(channel)
    }

    /// After any error: the next one gets a new channel.
    pub(crate) async fn forget(&self) {
        *self.open.lock().await = None;
    }

    /// How many messages wait in a queue. None only if there are none for a while.
    pub(crate) async fn ready(&self, queue: &str) -> anyhow::Result<u32> {
        let begin = Instant::now();
        loop {
            let last = begin.elapsed() >= SURE_AFTER;
            let ready = self.glance(queue).await?;
            if ready > 0 || last {
                return Ok(ready);
            }
            sleep(POLL * 10).await;
        }
    }

    /// The same at once, for a queue that is known to be at work. A broker that is away is asked again.
    pub(crate) async fn glance(&self, queue: &str) -> anyhow::Result<u32> {
        let begin = Instant::now();
        loop {
            let late = begin.elapsed() > ANSWERS_WITHIN;
            match self.ask(queue).await {
                Ok(Some(ready)) => return Ok(ready),
                Ok(None) if late => bail!("{queue} is too busy to say what it holds"),
                Ok(None) => {}
                Err(error) if late => return Err(error.context(format!("{queue} does not answer"))),
                Err(_) => self.forget().await,
            }
            sleep(POLL * 4).await;
        }
    }

    /// How many consumers a queue has.
    pub(crate) async fn consumers(&self, queue: &str) -> anyhow::Result<u32> {
        let channel = self.channel().await?;
        let passive = QueueDeclareOptions::durable().passive();
        let asked = channel.queue_declare(queue.into(), passive, FieldTable::default());
        Ok(timeout(CONNECTS_WITHIN, asked).await??.consumer_count())
    }

    /// What the broker says is in a queue; nothing if it may not know.
    async fn ask(&self, queue: &str) -> anyhow::Result<Option<u32>> {
        let channel = self.channel().await?;
        let begin = Instant::now();
        let passive = QueueDeclareOptions::durable().passive();
        let asked = channel.queue_declare(queue.into(), passive, FieldTable::default());
        let ready = timeout(CONNECTS_WITHIN, asked).await??.message_count();
        Ok(Some(ready).filter(|ready| *ready > 0 || begin.elapsed() < KNOWS_WITHIN))
    }
}

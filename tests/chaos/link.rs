//! Our own way to the broker, which is made anew whenever a fault has taken it.

use std::time::Duration;

use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{ConfirmSelectOptions, QueueDeclareOptions},
    types::FieldTable,
};
use tokio::{sync::Mutex, time::timeout};

/// A broker that needs longer is away.
const CONNECTS_WITHIN: Duration = Duration::from_secs(10);

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

    /// How many messages wait in a queue.
    pub(crate) async fn ready(&self, queue: &str) -> anyhow::Result<u32> {
        let channel = self.channel().await?;
        let passive = QueueDeclareOptions::durable().passive();
        let asked =
            timeout(CONNECTS_WITHIN, channel.queue_declare(queue.into(), passive, FieldTable::default()));
        match asked.await {
            Ok(Ok(state)) => Ok(state.message_count()),
            Ok(Err(error)) => {
                self.forget().await;
                Err(error.into())
            }
            Err(late) => {
                self.forget().await;
                Err(late.into())
            }
        }
    }
}

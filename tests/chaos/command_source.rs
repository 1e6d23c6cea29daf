//! A sender that follows the contract: persistent, mandatory, with publisher confirms; unconfirmed messages are sent
//! again under the same id.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::bail;
use lapin::{BasicProperties, Confirmation, options::BasicPublishOptions};
use tokio::time::timeout;

use crate::{broker_client::BrokerClient, command::Command};

/// The largest number of unconfirmed messages.
const MAX_UNCONFIRMED: usize = 500;
/// Without a confirm for this time the message is published again on another connection.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for all confirms, outages of the broker included.
const PUBLISH_TIMEOUT: Duration = Duration::from_mins(2);

/// The properties that clients set on a command.
pub(crate) fn properties(kind: &str, message_id: &str) -> BasicProperties {
    BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(2)
        .with_type(kind.into())
        .with_message_id(message_id.into())
}

/// A message with arbitrary properties and body.
#[derive(Clone, Debug)]
pub(crate) struct OutgoingMessage {
    /// The full name of the exchange; empty for the default exchange.
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Vec<u8>,
}

/// Sends commands, and records which were attempted and which were confirmed.
pub(crate) struct CommandSource {
    broker_client: BrokerClient,
    exchange: String,
    attempted: Mutex<Vec<Command>>,
    confirmed: Mutex<HashSet<String>>,
}

impl CommandSource {
    pub(crate) fn new(url: &str, namespace: &str) -> Self {
        Self {
            broker_client: BrokerClient::new(url),
            exchange: format!("{namespace}.commands"),
            attempted: Mutex::default(),
            confirmed: Mutex::default(),
        }
    }

    /// Every attempted command, once.
    pub(crate) fn attempted(&self) -> Vec<Command> {
        lock(&self.attempted).clone()
    }

    pub(crate) fn attempt_count(&self) -> usize {
        lock(&self.attempted).len()
    }

    /// The ids that the broker has confirmed.
    pub(crate) fn confirmed(&self) -> HashSet<String> {
        lock(&self.confirmed).clone()
    }

    /// Records commands that are sent by other means, and whether they are known to be confirmed.
    pub(crate) fn record(&self, commands: &[Command], confirmed: bool) {
        lock(&self.attempted).extend_from_slice(commands);
        if confirmed {
            lock(&self.confirmed).extend(commands.iter().map(|command| command.message_id.clone()));
        }
    }

    /// Sends commands in order, and unconfirmed ones again, until all are confirmed.
    pub(crate) async fn send(&self, commands: &[Command]) -> anyhow::Result<()> {
        self.record(commands, false);
        let messages: Vec<_> = commands.iter().map(|command| self.command_message(command)).collect();
        self.publish(&messages).await?;
        self.record_confirmed(commands);
        Ok(())
    }

    fn record_confirmed(&self, commands: &[Command]) {
        lock(&self.confirmed).extend(commands.iter().map(|command| command.message_id.clone()));
    }

    /// Sends commands again under their old ids.
    pub(crate) async fn resend(&self, commands: &[Command]) -> anyhow::Result<()> {
        self.publish(&commands.iter().map(|command| self.command_message(command)).collect::<Vec<_>>()).await
    }

    /// Publishes messages until each is confirmed.
    pub(crate) async fn publish(&self, messages: &[OutgoingMessage]) -> anyhow::Result<()> {
        let begin = Instant::now();
        let mut remaining: Vec<_> = messages.iter().collect();
        loop {
            let confirmed = self.try_to_publish(&remaining).await;
            remaining = remaining
                .into_iter()
                .zip(confirmed)
                .filter(|(_, confirmed)| !confirmed)
                .map(|(message, _)| message)
                .collect();
            if remaining.is_empty() {
                return Ok(());
            }
            if begin.elapsed() > PUBLISH_TIMEOUT {
                bail!("{} of {} messages were not confirmed", remaining.len(), messages.len());
            }
            self.broker_client.disconnect().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// A message to the exchange for commands.
    pub(crate) fn message(
        &self,
        routing_key: &str,
        properties: BasicProperties,
        body: &[u8],
    ) -> OutgoingMessage {
        OutgoingMessage {
            exchange: self.exchange.clone(),
            routing_key: routing_key.to_owned(),
            properties,
            body: body.to_vec(),
        }
    }

    pub(crate) fn command_message(&self, command: &Command) -> OutgoingMessage {
        let body = command.body.to_string();
        self.message(command.kind, properties(command.kind, &command.message_id), body.as_bytes())
    }

    /// Which messages the broker confirmed. A returned message counts as unconfirmed.
    async fn try_to_publish(&self, messages: &[&OutgoingMessage]) -> Vec<bool> {
        let mut confirmed = Vec::with_capacity(messages.len());
        for window in messages.chunks(MAX_UNCONFIRMED) {
            if self.publish_window(window, &mut confirmed).await.is_err() {
                break;
            }
        }
        confirmed.resize(messages.len(), false);
        confirmed
    }

    async fn publish_window(
        &self,
        window: &[&OutgoingMessage],
        confirmed: &mut Vec<bool>,
    ) -> anyhow::Result<()> {
        let channel = self.broker_client.channel().await?;
        let mut confirms = Vec::with_capacity(window.len());
        for message in window {
            let written = channel.basic_publish(
                message.exchange.as_str().into(),
                message.routing_key.as_str().into(),
                BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() },
                &message.body,
                message.properties.clone(),
            );
            confirms.push(timeout(CONFIRM_TIMEOUT, written).await??);
        }
        for confirm in confirms {
            let confirmation = timeout(CONFIRM_TIMEOUT, confirm).await??;
            confirmed.push(confirmation == Confirmation::Ack(None));
        }
        Ok(())
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

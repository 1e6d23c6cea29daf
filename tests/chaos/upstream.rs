//! An upstream system as the contract wants it: persistent, mandatory, with confirms, and again under the same id
//! what was not confirmed.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::bail;
use lapin::{BasicProperties, Confirmation, options::BasicPublishOptions};
use tokio::time::timeout;

use crate::{command::Command, link::Link};

/// Confirms that may be outstanding.
const WINDOW: usize = 500;
/// A broker that confirms nothing for so long is asked again on another connection.
const CONFIRMS_WITHIN: Duration = Duration::from_secs(10);
/// A broker that is away for longer does not come back.
const PATIENCE: Duration = Duration::from_mins(2);

/// What clients put on a command.
pub(crate) fn properties(kind: &str, message_id: &str) -> BasicProperties {
    BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(2)
        .with_type(kind.into())
        .with_message_id(message_id.into())
}

/// A message, byte by byte as somebody wants it.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    /// The exchange's full name; empty for the default exchange.
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Vec<u8>,
}

/// Sends commands, and remembers which it tried and which the broker has.
pub(crate) struct Upstream {
    link: Link,
    exchange: String,
    attempted: Mutex<Vec<Command>>,
    confirmed: Mutex<HashSet<String>>,
}

impl Upstream {
    pub(crate) fn new(url: &str, namespace: &str) -> Self {
        Self {
            link: Link::to(url),
            exchange: format!("{namespace}.commands"),
            attempted: Mutex::default(),
            confirmed: Mutex::default(),
        }
    }

    /// Everything that was tried, each command once.
    pub(crate) fn attempted(&self) -> Vec<Command> {
        guard(&self.attempted).clone()
    }

    pub(crate) fn attempts(&self) -> usize {
        guard(&self.attempted).len()
    }

    /// The ids that the broker has confirmed.
    pub(crate) fn confirmed(&self) -> HashSet<String> {
        guard(&self.confirmed).clone()
    }

    /// Notes commands that somebody else sends: confirmed, if that is known.
    pub(crate) fn note(&self, commands: &[Command], confirmed: bool) {
        guard(&self.attempted).extend_from_slice(commands);
        if confirmed {
            guard(&self.confirmed).extend(commands.iter().map(|command| command.message_id.clone()));
        }
    }

    /// Sends commands in order, and again what was not confirmed, until the broker has all of them.
    pub(crate) async fn send(&self, commands: &[Command]) -> anyhow::Result<()> {
        self.note(commands, false);
        let messages: Vec<_> = commands.iter().map(|command| self.outgoing(command)).collect();
        self.publish(&messages).await?;
        self.confirm(commands);
        Ok(())
    }

    /// Notes that the broker has these.
    fn confirm(&self, commands: &[Command]) {
        guard(&self.confirmed).extend(commands.iter().map(|command| command.message_id.clone()));
    }

    /// Sends commands that were sent before once more, under their old ids.
    pub(crate) async fn repeat(&self, commands: &[Command]) -> anyhow::Result<()> {
        self.publish(&commands.iter().map(|command| self.outgoing(command)).collect::<Vec<_>>()).await
    }

    /// Publishes messages, each until it is confirmed by a queue.
    pub(crate) async fn publish(&self, messages: &[Outgoing]) -> anyhow::Result<()> {
        let begin = Instant::now();
        let mut left: Vec<_> = messages.iter().collect();
        loop {
            let taken = self.try_to_publish(&left).await;
            left =
                left.into_iter().zip(taken).filter(|(_, taken)| !taken).map(|(message, _)| message).collect();
            if left.is_empty() {
                return Ok(());
            }
            if begin.elapsed() > PATIENCE {
                bail!("{} of {} messages were not confirmed", left.len(), messages.len());
            }
            self.link.forget().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// A message to the exchange for commands.
    pub(crate) fn raw(&self, routing_key: &str, properties: BasicProperties, body: &[u8]) -> Outgoing {
        Outgoing {
            exchange: self.exchange.clone(),
            routing_key: routing_key.to_owned(),
            properties,
            body: body.to_vec(),
        }
    }

    pub(crate) fn outgoing(&self, command: &Command) -> Outgoing {
        let body = command.body.to_string();
        self.raw(command.kind, properties(command.kind, &command.message_id), body.as_bytes())
    }

    /// Which of them the broker confirmed. One that was returned, or of which nothing is known, is not among them.
    async fn try_to_publish(&self, messages: &[&Outgoing]) -> Vec<bool> {
        let mut taken = Vec::with_capacity(messages.len());
        for window in messages.chunks(WINDOW) {
            if self.publish_window(window, &mut taken).await.is_err() {
                break;
            }
        }
        taken.resize(messages.len(), false);
        taken
    }

    async fn publish_window(&self, window: &[&Outgoing], taken: &mut Vec<bool>) -> anyhow::Result<()> {
        let channel = self.link.channel().await?;
        let mut confirms = Vec::with_capacity(window.len());
        for message in window {
            let written = channel.basic_publish(
                message.exchange.as_str().into(),
                message.routing_key.as_str().into(),
                BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() },
                &message.body,
                message.properties.clone(),
            );
            confirms.push(timeout(CONFIRMS_WITHIN, written).await??);
        }
        for confirm in confirms {
            let confirmation = timeout(CONFIRMS_WITHIN, confirm).await??;
            taken.push(confirmation == Confirmation::Ack(None));
        }
        Ok(())
    }
}

fn guard<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

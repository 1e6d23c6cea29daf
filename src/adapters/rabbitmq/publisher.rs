//! Publishing with confirms: many in flight, every outcome known or said to be unknown.

use std::{collections::HashSet, time::Duration};

use async_trait::async_trait;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldTable},
};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout_at},
};

use crate::ports::{
    operations::{CommandSender, OutgoingCommand},
    outbox::{OutboxRow, Published, Publisher},
    queue::BrokerError,
};

use super::{Broker, CONNECT_WITHIN, answer, channel};

/// A broker that confirms nothing for so long is in alarm or gone; what was in flight is published again.
const CONFIRM_WITHIN: Duration = Duration::from_secs(10);
/// Survives a restart of the broker.
const PERSISTENT: u8 = 2;

/// A message on its way to an exchange.
#[derive(Clone, Debug)]
struct Outgoing {
    /// The exchange's full name.
    exchange: String,
    /// The routing key, which is the message's type as well.
    kind: String,
    /// Its id: returns are recognised by it, so within one call it must be unique.
    message_id: String,
    /// Its JSON.
    body: Vec<u8>,
    /// What ties it to others, if known.
    correlation_id: Option<String>,
    /// Who says so: the namespace, for our own events.
    app_id: Option<String>,
    /// Seconds since 1970.
    timestamp: Option<u64>,
    /// Further headers.
    headers: FieldTable,
}

impl Outgoing {
    fn properties(&self) -> BasicProperties {
        let mut properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(PERSISTENT)
            .with_type(self.kind.as_str().into())
            .with_message_id(self.message_id.as_str().into())
            .with_headers(self.headers.clone());
        if let Some(id) = &self.correlation_id {
            properties = properties.with_correlation_id(id.as_str().into());
        }
        if let Some(id) = &self.app_id {
            properties = properties.with_app_id(id.as_str().into());
        }
        if let Some(seconds) = self.timestamp {
            properties = properties.with_timestamp(seconds);
        }
        properties
    }
}

/// A channel in confirm mode on a connection of its own.
struct PublishingChannel {
    /// Kept open as long as the channel.
    _connection: Connection,
    channel: Channel,
}

impl PublishingChannel {
    /// Connects.
    ///
    /// # Errors
    /// The broker is away or refuses.
    async fn open(broker: &Broker, purpose: &str) -> Result<Self, BrokerError> {
        let connection = broker.connect(purpose).await?;
        let channel = channel(&connection).await?;
        answer(
            CONNECT_WITHIN,
            channel.confirm_select(ConfirmSelectOptions::default()),
        )
        .await?;
        Ok(Self {
            _connection: connection,
            channel,
        })
    }

    /// Publishes in order, all in flight together. After an unknown outcome the channel is of no more use.
    async fn publish(&self, messages: &[Outgoing]) -> Vec<Published> {
        let deadline = Instant::now() + CONFIRM_WITHIN;
        let mut confirms = Vec::with_capacity(messages.len());
        for message in messages {
            confirms.push(timeout_at(deadline, self.write(message)).await);
        }
        let mut returned = HashSet::new();
        let mut outcomes = Vec::with_capacity(messages.len());
        for confirm in confirms {
            let confirmation = match confirm {
                Ok(Ok(confirm)) => timeout_at(deadline, confirm).await,
                Ok(Err(error)) => Ok(Err(error)),
                Err(elapsed) => Err(elapsed),
            };
            outcomes.push(match confirmation {
                Ok(Ok(confirmation)) => {
                    let confirmed = confirmation.is_ack();
                    returned.extend(returned_id(confirmation));
                    if confirmed {
                        Published::Confirmed
                    } else {
                        Published::Refused("the broker said no (nack)".into())
                    }
                }
                Ok(Err(error)) => Published::Unknown(super::said(&error)),
                Err(_) => Published::Unknown(format!("not confirmed within {CONFIRM_WITHIN:?}")),
            });
        }
        mark_returned(&mut outcomes, messages, &returned);
        outcomes
    }

    async fn write(&self, message: &Outgoing) -> Result<lapin::PublisherConfirm, lapin::Error> {
        self.channel
            .basic_publish(
                message.exchange.as_str().into(),
                message.kind.as_str().into(),
                BasicPublishOptions {
                    mandatory: true,
                    ..BasicPublishOptions::default()
                },
                &message.body,
                message.properties(),
            )
            .await
    }
}

/// The client may hand a returned message to another publish's confirmation: only the id inside it tells whose it is.
fn returned_id(confirmation: Confirmation) -> Option<String> {
    let returned = confirmation.take_message()?;
    returned.properties.message_id().as_ref().map(ToString::to_string)
}

fn mark_returned(outcomes: &mut [Published], messages: &[Outgoing], returned: &HashSet<String>) {
    if returned.is_empty() {
        return;
    }
    for (outcome, message) in outcomes.iter_mut().zip(messages) {
        if *outcome == Published::Confirmed && returned.contains(&message.message_id) {
            *outcome = Published::Unroutable;
        }
    }
}

/// Publishes events, on a connection that is made anew after any trouble.
pub struct EventPublisher {
    broker: Broker,
    channel: Mutex<Option<PublishingChannel>>,
}

impl EventPublisher {
    /// A publisher that connects when it is first used.
    #[must_use]
    pub fn new(broker: Broker) -> Self {
        Self {
            broker,
            channel: Mutex::new(None),
        }
    }

    fn outgoing(&self, row: &OutboxRow) -> Outgoing {
        let mut headers = FieldTable::default();
        headers.insert(
            "causation_id".into(),
            AMQPValue::LongString(row.causation_id.as_str().into()),
        );
        headers.insert(
            "aggregate_id".into(),
            AMQPValue::LongString(row.sku.as_str().into()),
        );
        headers.insert("sequence".into(), AMQPValue::LongLongInt(row.sequence));
        if let Some(traceparent) = &row.traceparent {
            headers.insert(
                "traceparent".into(),
                AMQPValue::LongString(traceparent.as_str().into()),
            );
        }
        Outgoing {
            exchange: self.broker.named("events"),
            kind: row.name.clone(),
            message_id: row.event_id.to_string(),
            body: row.body.clone().into_bytes(),
            correlation_id: Some(row.correlation_id.clone()),
            app_id: Some(self.broker.namespace().to_owned()),
            timestamp: Some(row.committed_at),
            headers,
        }
    }
}

#[async_trait]
impl Publisher for EventPublisher {
    async fn publish(&self, rows: &[OutboxRow]) -> Vec<Published> {
        let mut slot = self.channel.lock().await;
        let channel = match slot.take() {
            Some(channel) => channel,
            None => match PublishingChannel::open(&self.broker, "publishes events").await {
                Ok(channel) => channel,
                Err(error) => return vec![Published::Unknown(error.to_string()); rows.len()],
            },
        };
        let messages: Vec<_> = rows.iter().map(|row| self.outgoing(row)).collect();
        let outcomes = channel.publish(&messages).await;
        if !outcomes
            .iter()
            .any(|outcome| matches!(outcome, Published::Unknown(_)))
        {
            *slot = Some(channel);
        }
        outcomes
    }
}

/// Publishes commands for whoever has no client of their own.
pub struct RabbitSender {
    broker: Broker,
    channel: Mutex<Option<PublishingChannel>>,
}

impl RabbitSender {
    /// A sender that connects when it is first used.
    #[must_use]
    pub fn new(broker: Broker) -> Self {
        Self {
            broker,
            channel: Mutex::new(None),
        }
    }

    fn outgoing(&self, command: &OutgoingCommand) -> Outgoing {
        Outgoing {
            exchange: self.broker.named("commands"),
            kind: command.kind.clone(),
            message_id: command.message_id.clone(),
            body: command.body.clone(),
            correlation_id: None,
            app_id: None,
            timestamp: None,
            headers: FieldTable::default(),
        }
    }
}

#[async_trait]
impl CommandSender for RabbitSender {
    async fn send(&self, commands: &[OutgoingCommand]) -> Result<Vec<Published>, BrokerError> {
        let mut slot = self.channel.lock().await;
        let channel = match slot.take() {
            Some(channel) => channel,
            None => PublishingChannel::open(&self.broker, "sends commands").await?,
        };
        let messages: Vec<_> = commands.iter().map(|command| self.outgoing(command)).collect();
        let outcomes = channel.publish(&messages).await;
        if !outcomes
            .iter()
            .any(|outcome| matches!(outcome, Published::Unknown(_)))
        {
            *slot = Some(channel);
        }
        Ok(outcomes)
    }
}

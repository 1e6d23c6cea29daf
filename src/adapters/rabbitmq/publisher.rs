//! Publishing with confirms: many in flight, every outcome known or said to be unknown.

use std::{collections::HashSet, future::poll_fn, task::Poll, time::Duration};

use async_trait::async_trait;
use futures_util::future::maybe_done;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, PublisherConfirm,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldTable, ShortString},
};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout_at},
};

use tracing::warn;

use crate::{
    crash_points::{self, CrashPoint},
    domain::{OutboxRow, PublishOutcome},
    ports::{
        admin::{CommandSender, OutboundCommand},
        error::{BrokerError, error_text},
        failed_messages::DueRetry,
        outbox::Publisher,
    },
};

use super::{
    CONNECT_WITHIN, RabbitConfig, channel,
    properties::{self, PERSISTENT, TRACEPARENT, short},
    with_timeout,
};

/// A broker that confirms nothing for so long is in alarm or gone; what was in flight is published again.
const CONFIRM_WITHIN: Duration = Duration::from_secs(10);
/// So many messages are handed to the client at once. It copies them; and more of them are written no faster.
const WRITTEN_TOGETHER: usize = 100;

/// A message on its way to an exchange.
#[derive(Clone, Debug)]
struct OutboundMessage {
    /// The exchange's full name.
    exchange: String,
    /// The routing key.
    routing_key: String,
    /// Its bytes.
    body: Vec<u8>,
    /// Its properties and headers. Returns are recognised by the routing key and the message id.
    properties: BasicProperties,
}

/// What came of handing a message over: its confirmation is to come; or an error, none if it took too long.
type SendResult = Result<PublisherConfirm, Option<lapin::Error>>;

/// A channel in confirm mode on a connection of its own.
struct ConfirmChannel {
    connection: Connection,
    channel: Channel,
    /// Where it is once everything is written and nothing confirmed.
    written: CrashPoint,
}

impl ConfirmChannel {
    /// Connects.
    ///
    /// # Errors
    /// The broker is away or refuses.
    async fn open(broker: &RabbitConfig, purpose: &str, written: CrashPoint) -> Result<Self, BrokerError> {
        let connection = broker.connect(purpose).await?;
        let channel = channel(&connection).await?;
        with_timeout(CONNECT_WITHIN, channel.confirm_select(ConfirmSelectOptions::default())).await?;
        Ok(Self { connection, channel, written })
    }

    /// Publishes in order, all in flight together. After an unknown outcome the channel is of no more use.
    async fn publish(&self, messages: &[OutboundMessage]) -> Vec<PublishOutcome> {
        let mut deadline = Instant::now() + CONFIRM_WITHIN;
        let mut confirms = Vec::with_capacity(messages.len());
        for together in messages.chunks(WRITTEN_TOGETHER) {
            confirms.extend(self.write_batch(&mut deadline, together).await);
        }
        crash_points::here(self.written);
        let mut returned = HashSet::new();
        let mut outcomes = Vec::with_capacity(messages.len());
        for confirm in confirms {
            let confirmation = match confirm {
                Ok(confirm) => self.with_deadline(&mut deadline, confirm).await,
                Err(unknown) => Err(unknown),
            };
            outcomes.push(match confirmation {
                Ok(confirmation) => {
                    let confirmed = confirmation.is_ack();
                    returned.extend(returned_message(confirmation));
                    if confirmed {
                        PublishOutcome::Confirmed
                    } else {
                        PublishOutcome::Nacked("a queue did not take it".into())
                    }
                }
                Err(Some(error)) if messages.len() == 1 && concerns_the_message(&error) => {
                    PublishOutcome::Rejected(super::reply_text(&error))
                }
                Err(Some(error)) => PublishOutcome::Unknown(super::reply_text(&error)),
                Err(None) => PublishOutcome::Unknown(format!("not confirmed within {CONFIRM_WITHIN:?}")),
            });
        }
        mark_returned(&mut outcomes, messages, &returned);
        outcomes
    }

    /// Hands messages to the client, in order, before it waits for any of them to be written: so the client writes them
    /// at once, instead of one by one and waking us after each.
    async fn write_batch(&self, deadline: &mut Instant, messages: &[OutboundMessage]) -> Vec<SendResult> {
        let mut writes: Vec<_> =
            messages.iter().map(|message| Box::pin(maybe_done(self.write(message)))).collect();
        poll_fn(|context| {
            for write in &mut writes {
                let _ = write.as_mut().poll(context);
            }
            Poll::Ready(())
        })
        .await;
        let mut written = Vec::with_capacity(messages.len());
        for mut write in writes {
            let finished = self.with_deadline(deadline, async {
                write.as_mut().await;
                write.as_mut().take_output().expect("it has ended, and nobody else took what came of it")
            });
            written.push(finished.await);
        }
        written
    }

    /// Waits until the deadline. A broker in alarm stops reading and says so: then there is no deadline, for whatever
    /// was handed to the connection would be published all the same when the alarm ends.
    async fn with_deadline<T>(
        &self,
        deadline: &mut Instant,
        answer: impl Future<Output = Result<T, lapin::Error>>,
    ) -> Result<T, Option<lapin::Error>> {
        let mut answer = std::pin::pin!(answer);
        loop {
            match timeout_at(*deadline, &mut answer).await {
                Ok(outcome) => return outcome.map_err(Some),
                Err(_) if self.connection.status().blocked() => {
                    warn!("the broker is in alarm and takes nothing; publishing waits");
                    *deadline = Instant::now() + CONFIRM_WITHIN;
                }
                Err(_) => return Err(None),
            }
        }
    }

    async fn write(&self, message: &OutboundMessage) -> Result<PublisherConfirm, lapin::Error> {
        self.channel
            .basic_publish(
                message.exchange.as_str().into(),
                short(&message.routing_key),
                BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() },
                &message.body,
                message.properties.clone(),
            )
            .await
    }
}

/// Whether the broker closed the channel or connection over what the message is, rather than over anything around it:
/// content too large, a property it does not accept, a header that fills more than a frame, a frame it cannot read.
/// A missing exchange or right is no fault of the message: everything waits until it is there.
fn concerns_the_message(error: &lapin::Error) -> bool {
    matches!(super::reply_code(error), Some(311 | 406 | 501 | 502 | 505))
}

/// The client may hand a returned message to another publish's confirmation: only what it carries tells whose it is. Those
/// of one routing key and one id, or none, have the same fate.
fn returned_message(confirmation: Confirmation) -> Option<ReturnedMessageId> {
    let returned = confirmation.take_message()?;
    Some((returned.routing_key.to_string(), returned.properties.message_id().clone()))
}

/// The routing key of a message that no queue took, and its id, if it has one.
type ReturnedMessageId = (String, Option<ShortString>);

fn mark_returned(
    outcomes: &mut [PublishOutcome],
    messages: &[OutboundMessage],
    returned: &HashSet<ReturnedMessageId>,
) {
    if returned.is_empty() {
        return;
    }
    for (outcome, message) in outcomes.iter_mut().zip(messages) {
        let id = (short(&message.routing_key).to_string(), message.properties.message_id().clone());
        if *outcome == PublishOutcome::Confirmed && returned.contains(&id) {
            *outcome = PublishOutcome::Unroutable;
        }
    }
}

/// A channel that is made anew, with its connection, after any trouble.
struct ReconnectingPublisher {
    broker: RabbitConfig,
    purpose: &'static str,
    written: CrashPoint,
    open: Mutex<Option<ConfirmChannel>>,
}

impl ReconnectingPublisher {
    fn new(broker: RabbitConfig, purpose: &'static str, written: CrashPoint) -> Self {
        Self { broker, purpose, written, open: Mutex::new(None) }
    }

    async fn publish(&self, messages: &[OutboundMessage]) -> Vec<PublishOutcome> {
        let mut open = self.open.lock().await;
        let channel = match open.take() {
            Some(channel) => channel,
            None => match ConfirmChannel::open(&self.broker, self.purpose, self.written).await {
                Ok(channel) => channel,
                Err(error) => return vec![PublishOutcome::Unknown(error_text(&error)); messages.len()],
            },
        };
        let outcomes = channel.publish(messages).await;
        if !outcomes
            .iter()
            .any(|outcome| matches!(outcome, PublishOutcome::Unknown(_) | PublishOutcome::Rejected(_)))
        {
            *open = Some(channel);
        }
        outcomes
    }
}

/// Publishes events, and retries of commands.
pub struct RabbitPublisher {
    broker: RabbitConfig,
    events: ReconnectingPublisher,
    /// Their own: what goes wrong with one kind does not take the other's channel away.
    retries: ReconnectingPublisher,
}

impl RabbitPublisher {
    /// A publisher that connects when it is first used.
    #[must_use]
    pub fn new(broker: RabbitConfig) -> Self {
        Self {
            events: ReconnectingPublisher::new(
                broker.clone(),
                "publishes events",
                CrashPoint::RelayPublished,
            ),
            retries: ReconnectingPublisher::new(
                broker.clone(),
                "publishes retries",
                CrashPoint::RetryPublished,
            ),
            broker,
        }
    }

    fn event(&self, row: &OutboxRow) -> OutboundMessage {
        let mut headers = FieldTable::default();
        headers.insert("causation_id".into(), AMQPValue::LongString(row.causation_id.as_str().into()));
        headers.insert("aggregate_id".into(), AMQPValue::LongString(row.sku.as_str().into()));
        headers.insert("sequence".into(), AMQPValue::LongLongInt(row.sequence));
        if let Some(traceparent) = &row.traceparent {
            headers.insert(TRACEPARENT.into(), AMQPValue::LongString(traceparent.as_str().into()));
        }
        OutboundMessage {
            exchange: self.broker.named("events"),
            routing_key: row.name.clone(),
            body: row.body.clone().into_bytes(),
            properties: json_message(&row.name, &row.event_id.to_string())
                .with_headers(headers)
                .with_correlation_id(short(&row.correlation_id))
                .with_app_id(self.broker.namespace().into())
                .with_timestamp(row.committed_at),
        }
    }

    /// Back to its queue by the default exchange: a binding that changed meanwhile leads nowhere else.
    fn retry(&self, retry: &DueRetry) -> OutboundMessage {
        OutboundMessage {
            exchange: String::new(),
            routing_key: self.broker.named(&retry.queue),
            body: retry.body.clone(),
            properties: properties::for_retry(retry),
        }
    }
}

#[async_trait]
impl Publisher for RabbitPublisher {
    async fn publish(&self, rows: &[OutboxRow]) -> Vec<PublishOutcome> {
        let events: Vec<_> = rows.iter().map(|row| self.event(row)).collect();
        self.events.publish(&events).await
    }

    async fn publish_retries(&self, retries: &[DueRetry]) -> Vec<PublishOutcome> {
        let retries: Vec<_> = retries.iter().map(|retry| self.retry(retry)).collect();
        self.retries.publish(&retries).await
    }
}

/// Publishes commands for whoever has no client of their own.
pub struct RabbitCommandSender {
    exchange: String,
    channel: ReconnectingPublisher,
}

impl RabbitCommandSender {
    /// A sender that connects when it is first used.
    #[must_use]
    pub fn new(broker: RabbitConfig) -> Self {
        Self {
            exchange: broker.named("commands"),
            channel: ReconnectingPublisher::new(broker, "sends commands", CrashPoint::SenderPublished),
        }
    }

    fn command(&self, command: &OutboundCommand) -> OutboundMessage {
        OutboundMessage {
            exchange: self.exchange.clone(),
            routing_key: command.kind.clone(),
            body: command.body.clone(),
            properties: json_message(&command.kind, &command.message_id),
        }
    }
}

#[async_trait]
impl CommandSender for RabbitCommandSender {
    async fn send(&self, commands: &[OutboundCommand]) -> Vec<PublishOutcome> {
        let commands: Vec<_> = commands.iter().map(|command| self.command(command)).collect();
        self.channel.publish(&commands).await
    }
}

fn json_message(kind: &str, message_id: &str) -> BasicProperties {
    BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(PERSISTENT)
        .with_type(short(kind))
        .with_message_id(short(message_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::{ErrorKind, protocol::AMQPError};

    /// The reply codes of the AMQP specification with which a broker closes a channel or a connection.
    #[test]
    fn only_some_reply_codes_are_about_the_message() {
        let closed = |code| {
            let error = AMQPError::from_id(code, "closed".into()).expect("the code is in the specification");
            lapin::Error::from(ErrorKind::ProtocolError(error))
        };
        for code in [311, 406, 501, 502, 505] {
            assert!(concerns_the_message(&closed(code)), "{code}");
        }
        for code in [312, 313, 320, 402, 403, 404, 405, 503, 504, 506, 530, 540, 541] {
            assert!(!concerns_the_message(&closed(code)), "{code}");
        }
    }
}

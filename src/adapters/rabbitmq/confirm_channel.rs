//! Publishing with confirms: many messages in flight, and an outcome for each of them.

use std::{collections::HashSet, future::poll_fn, pin::pin, task::Poll, time::Duration};

use futures_util::future::maybe_done;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionStatus, PublisherConfirm,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::ShortString,
};
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use crate::{domain::PublishOutcome, ports::error::BrokerError};

use super::{
    connection::{CONNECT_TIMEOUT, RabbitConfig, open_channel, reply_code, reply_text, with_timeout},
    properties::short,
};

/// Time to wait for each confirm. Unconfirmed messages are published again.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages passed to the client library at once. It copies them; a larger number is not faster.
const WRITE_BATCH: usize = 100;

/// A message to publish.
#[derive(Clone, Debug)]
pub(super) struct OutboundMessage<'a> {
    /// The full name of the exchange.
    pub(super) exchange: String,
    pub(super) routing_key: String,
    pub(super) body: &'a [u8],
    pub(super) properties: BasicProperties,
}

impl OutboundMessage<'_> {
    fn returned_id(&self) -> ReturnedMessageId {
        (short(&self.routing_key).to_string(), self.properties.message_id().clone())
    }
}

/// By what a returned message is recognised: routing key and message id. Messages with equal ones have the same outcome.
type ReturnedMessageId = (String, Option<ShortString>);

/// The confirm of a written message is pending, or an error; `None` is a timeout.
type SendResult = Result<PublisherConfirm, Option<lapin::Error>>;

/// A channel in confirm mode on a connection of its own.
pub(super) struct ConfirmChannel {
    connection: Connection,
    channel: Channel,
}

impl ConfirmChannel {
    pub(super) async fn open(broker: &RabbitConfig, purpose: &str) -> Result<Self, BrokerError> {
        let connection = broker.connect(purpose).await?;
        let channel = open_channel(&connection).await?;
        with_timeout(CONNECT_TIMEOUT, channel.confirm_select(ConfirmSelectOptions::default())).await?;
        Ok(Self { connection, channel })
    }

    /// The status of its connection.
    pub(super) fn status(&self) -> ConnectionStatus {
        self.connection.status().clone()
    }

    /// Publishes messages in order, all in flight together. After an unknown outcome the channel cannot be used again.
    pub(super) async fn publish(&self, messages: &[OutboundMessage<'_>]) -> Vec<PublishOutcome> {
        let mut deadline = Instant::now() + CONFIRM_TIMEOUT;
        let mut sent = Vec::with_capacity(messages.len());
        for batch in messages.chunks(WRITE_BATCH) {
            sent.extend(self.write_batch(&mut deadline, batch).await);
        }
        let mut returned = HashSet::new();
        let mut outcomes = Vec::with_capacity(messages.len());
        for (message, sent) in sent {
            let confirmation = match sent {
                Ok(confirm) => self.with_deadline(&mut deadline, confirm).await,
                Err(error) => Err(error),
            };
            let outcome = match confirmation {
                Ok(confirmation) => confirmed(confirmation, &mut returned),
                Err(error) => unconfirmed(error, messages.len() == 1),
            };
            outcomes.push((message, outcome));
        }
        let unroutable =
            |message: &OutboundMessage<'_>| !returned.is_empty() && returned.contains(&message.returned_id());
        let outcomes = outcomes.into_iter().map(|(message, outcome)| match outcome {
            PublishOutcome::Confirmed if unroutable(message) => PublishOutcome::Unroutable,
            outcome => outcome,
        });
        outcomes.collect()
    }

    /// Passes all messages to the client library, in order, before it waits for the first to be written. The client then
    /// writes them with few system calls.
    async fn write_batch<'a>(
        &self,
        deadline: &mut Instant,
        messages: &'a [OutboundMessage<'a>],
    ) -> Vec<(&'a OutboundMessage<'a>, SendResult)> {
        let mut writes: Vec<_> =
            messages.iter().map(|message| (message, Box::pin(maybe_done(self.write(message))))).collect();
        poll_fn(|context| {
            for (_, write) in &mut writes {
                let _ = write.as_mut().poll(context);
            }
            Poll::Ready(())
        })
        .await;
        let mut written = Vec::with_capacity(messages.len());
        for (message, mut write) in writes {
            let result = self.with_deadline(deadline, async {
                write.as_mut().await;
                write.as_mut().take_output().expect("the output of a finished write is taken once")
            });
            written.push((message, result.await));
        }
        written
    }

    /// Waits until the deadline; `None` is a timeout. While the broker blocks the connection, the deadline is extended:
    /// messages that were passed to the connection are published when the alarm ends.
    async fn with_deadline<T>(
        &self,
        deadline: &mut Instant,
        operation: impl Future<Output = Result<T, lapin::Error>>,
    ) -> Result<T, Option<lapin::Error>> {
        let mut operation = pin!(operation);
        loop {
            match timeout_at(*deadline, &mut operation).await {
                Ok(outcome) => return outcome.map_err(Some),
                Err(_) if self.connection.status().blocked() => {
                    warn!("broker blocked the connection (resource alarm); publishing paused");
                    *deadline = Instant::now() + CONFIRM_TIMEOUT;
                }
                Err(_) => return Err(None),
            }
        }
    }

    async fn write(&self, message: &OutboundMessage<'_>) -> Result<PublisherConfirm, lapin::Error> {
        self.channel
            .basic_publish(
                message.exchange.as_str().into(),
                short(&message.routing_key),
                BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() },
                message.body,
                message.properties.clone(),
            )
            .await
    }
}

/// The outcome of a confirm. A returned message is collected by its own id: the client library may attach it to the confirm
/// of another message.
fn confirmed(confirmation: Confirmation, returned: &mut HashSet<ReturnedMessageId>) -> PublishOutcome {
    let acknowledged = confirmation.is_ack();
    returned.extend(
        confirmation
            .take_message()
            .map(|message| (message.routing_key.to_string(), message.properties.message_id().clone())),
    );
    if acknowledged {
        PublishOutcome::Confirmed
    } else {
        PublishOutcome::Nacked("a queue rejected the message".into())
    }
}

/// The outcome without a confirm. Only an error of a single message can be attributed to it.
fn unconfirmed(error: Option<lapin::Error>, alone: bool) -> PublishOutcome {
    match error {
        Some(error) if alone && concerns_the_message(&error) => PublishOutcome::Rejected(reply_text(&error)),
        Some(error) => PublishOutcome::Unknown(reply_text(&error)),
        None => PublishOutcome::Unknown(format!("not confirmed within {CONFIRM_TIMEOUT:?}")),
    }
}

/// Whether the broker closed the channel or connection because of the message itself: content too large, an invalid
/// property, a header larger than a frame, an unreadable frame. A missing exchange or permission concerns every message.
fn concerns_the_message(error: &lapin::Error) -> bool {
    matches!(reply_code(error), Some(311 | 406 | 501 | 502 | 505))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::{ErrorKind, protocol::AMQPError};

    /// The reply codes of the AMQP specification with which a broker closes a channel or a connection.
    #[test]
    fn only_some_reply_codes_concern_the_message() {
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
        assert!(matches!(unconfirmed(Some(closed(406)), true), PublishOutcome::Rejected(_)));
        assert!(matches!(unconfirmed(Some(closed(406)), false), PublishOutcome::Unknown(_)));
        assert!(matches!(unconfirmed(Some(closed(404)), true), PublishOutcome::Unknown(_)));
    }
}

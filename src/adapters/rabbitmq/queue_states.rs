//! Measures the queues on one connection.

use async_trait::async_trait;
use lapin::{Connection, options::QueueDeclareOptions, types::FieldTable};
use tokio::sync::Mutex;

use crate::ports::{
    error::BrokerError,
    observer::{GaugedQueueKind, QueueReader, QueueState},
    queue::QueueName,
};

use super::connection::{CONNECT_TIMEOUT, RabbitConfig, broker_error, open_channel, reply_code};

/// Measures on a connection that is opened when it is first used, and again after an error.
pub struct RabbitQueueReader {
    config: RabbitConfig,
    connection: Mutex<Option<Connection>>,
}

impl RabbitQueueReader {
    /// A reader of the queues of a namespace.
    #[must_use]
    pub fn new(config: RabbitConfig) -> Self {
        Self { config, connection: Mutex::default() }
    }

    fn name(&self, queue: QueueName, kind: GaugedQueueKind) -> String {
        match kind {
            GaugedQueueKind::Main => self.config.queue(queue),
            GaugedQueueKind::DeadLetter => self.config.dead_letter_queue(queue),
            GaugedQueueKind::Unreadable => self.config.unreadable_queue(queue),
        }
    }

    async fn states(&self, connection: &Connection) -> Result<Vec<QueueState>, BrokerError> {
        let (mut states, mut open) = (Vec::new(), None);
        for queue in QueueName::ALL {
            for kind in GaugedQueueKind::ALL {
                let channel = match open.take() {
                    Some(channel) => channel,
                    None => open_channel(connection).await?,
                };
                let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
                let name = self.name(queue, *kind);
                match channel.queue_declare(name.into(), passive, FieldTable::default()).await {
                    Ok(found) => {
                        let (ready, consumers) = (found.message_count(), found.consumer_count());
                        states.push(QueueState { queue, kind: *kind, ready, consumers });
                        open = Some(channel);
                    }
                    // It is missing, or this user may not see it: the broker closes the channel.
                    Err(error) if reply_code(&error).is_some() => {}
                    Err(error) => return Err(broker_error(error)),
                }
            }
        }
        if let Some(channel) = open {
            channel.close(200, "done".into()).await.map_err(broker_error)?;
        }
        Ok(states)
    }
}

#[async_trait]
impl QueueReader for RabbitQueueReader {
    async fn queues(&self) -> Result<Vec<QueueState>, BrokerError> {
        let mut kept = self.connection.lock().await;
        let measured = tokio::time::timeout(CONNECT_TIMEOUT, async {
            let connection = match kept.take().filter(|connection| connection.status().connected()) {
                Some(connection) => connection,
                None => self.config.connect("metrics").await?,
            };
            let states = self.states(&connection).await?;
            Ok((connection, states))
        });
        let Ok(measured) = measured.await else {
            let text = format!("the queues were not measured within {CONNECT_TIMEOUT:?}");
            return Err(BrokerError::Unavailable(text.into()));
        };
        let (connection, states) = measured?;
        *kept = Some(connection);
        Ok(states)
    }
}

//! Observes one queue, for an operator who asks why it does not move.

use std::time::Duration;

use async_trait::async_trait;
use lapin::{Connection, options::QueueDeclareOptions, types::FieldTable};

use crate::ports::{
    diagnosis::{BrokerCondition, BrokerQueue, Observed, QueueObserver},
    error::error_text,
    queue::QueueName,
};

use super::{
    alarm::is_alarmed,
    connection::{RabbitConfig, reply_code, reply_text, with_timeout},
};

/// How long one answer may take.
const TIMEOUT: Duration = Duration::from_secs(2);
const NOT_FOUND: u16 = 404;

/// Observes on connections of its own.
pub struct RabbitQueueObserver(pub RabbitConfig);

#[async_trait]
impl QueueObserver for RabbitQueueObserver {
    async fn observe(&self, queue: QueueName) -> Observed<BrokerCondition> {
        let connection =
            match tokio::time::timeout(self.0.connect_limit(TIMEOUT), self.0.connect("why")).await {
                Ok(connected) => connected.map_err(|error| error_text(&error))?,
                Err(_) => return Err(format!("it accepts no connection within {TIMEOUT:?} for each node")),
            };
        let (queue, alarm) = tokio::join!(self.queue(&connection, queue), is_alarmed(&self.0, &connection));
        // The connection is closed in the background: a broker with an alarm may not answer.
        Ok(BrokerCondition { queue, alarm: alarm.map_err(|error| error_text(&error)) })
    }
}

impl RabbitQueueObserver {
    async fn queue(&self, connection: &Connection, queue: QueueName) -> Observed<BrokerQueue> {
        let channel = with_timeout(TIMEOUT, connection.create_channel()).await;
        let channel = channel.map_err(|error| error_text(&error))?;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let name = self.0.queue(queue).into();
        let declared = channel.queue_declare(name, passive, FieldTable::default());
        match tokio::time::timeout(TIMEOUT, declared).await {
            Ok(Ok(found)) => {
                Ok(BrokerQueue::Exists { ready: found.message_count(), consumers: found.consumer_count() })
            }
            Ok(Err(error)) if reply_code(&error) == Some(NOT_FOUND) => Ok(BrokerQueue::Missing),
            Ok(Err(error)) => Err(reply_text(&error)),
            Err(_) => Err(format!("no answer within {TIMEOUT:?}")),
        }
    }
}

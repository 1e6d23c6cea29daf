//! Inspects exchanges, queues and permissions, and changes nothing.

use std::time::Duration;

use async_trait::async_trait;
use lapin::{
    BasicProperties, Channel, Connection,
    options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldTable},
};

use crate::ports::{
    checks::{BrokerInspection, BrokerInspector, InspectedPermission},
    diagnosis::Observed,
    error::{BrokerError, error_text},
    queue::QueueName,
};

use super::{
    alarm::is_alarmed,
    connection::{RETRIES, RabbitConfig, broker_error, reply_code, with_timeout},
    topology::inspect_topology,
};

/// How long one answer may take.
const TIMEOUT: Duration = Duration::from_secs(2);
const ACCESS_REFUSED: u16 = 403;
const NOT_FOUND: u16 = 404;
const PRECONDITION_FAILED: u16 = 406;
/// The broker compares it with the user of the connection, after the permission and before it routes a message.
const NO_USER: &str = "no user has this name";

/// Inspects on a connection of its own.
pub struct RabbitInspector(pub RabbitConfig);

#[async_trait]
impl BrokerInspector for RabbitInspector {
    async fn inspect(&self) -> Observed<BrokerInspection> {
        let connecting = tokio::time::timeout(self.0.connect_limit(TIMEOUT), self.0.connect("doctor"));
        let connection = match connecting.await {
            Ok(connected) => connected.map_err(|error| error_text(&error))?,
            Err(_) => return Err(format!("it accepts no connection within {TIMEOUT:?} for each node")),
        };
        let topology = inspect_topology(&connection, &self.0).await.map_err(|error| error_text(&error))?;
        let permissions = self.permissions(&connection).await;
        let alarm = is_alarmed(&self.0, &connection).await.map_err(|error| error_text(&error));
        Ok(BrokerInspection { topology, permissions, alarm })
    }
}

impl RabbitInspector {
    async fn permissions(&self, connection: &Connection) -> Vec<InspectedPermission> {
        let mut permissions = Vec::new();
        for queue in QueueName::ALL {
            for name in [self.0.queue(queue), self.0.dead_letter_queue(queue)] {
                let is_granted = granted(connection, |channel| may_read(channel, name.clone())).await;
                permissions.push(InspectedPermission { permission: "read", object: name, is_granted });
            }
        }
        for exchange in ["commands", "events", RETRIES] {
            let name = self.0.named(exchange);
            let is_granted = granted(connection, |channel| may_write(channel, name.clone())).await;
            permissions.push(InspectedPermission { permission: "write", object: name, is_granted });
        }
        permissions
    }
}

/// Runs what fails in any case, and sees how: with the permission, because of its arguments.
async fn granted<F>(connection: &Connection, attempt: impl FnOnce(Channel) -> F) -> Observed<bool>
where
    F: Future<Output = Result<(), lapin::Error>>,
{
    let channel = with_timeout(TIMEOUT, connection.create_channel()).await.map_err(|e| error_text(&e))?;
    match tokio::time::timeout(TIMEOUT, attempt(channel)).await {
        Ok(Err(error)) => match reply_code(&error) {
            Some(ACCESS_REFUSED) => Ok(false),
            Some(PRECONDITION_FAILED) => Ok(true),
            Some(NOT_FOUND) => Err("an exchange or a queue is missing".into()),
            _ => Err(error_text(&broker_error(error))),
        },
        Ok(Ok(())) => Err("the broker did not refuse what it should".into()),
        Err(_) => Err(error_text(&BrokerError::Unavailable(format!("no answer within {TIMEOUT:?}").into()))),
    }
}

/// A priority that is no number is refused after the permission was checked, so nothing is delivered.
async fn may_read(channel: Channel, queue: String) -> Result<(), lapin::Error> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-priority".into(), AMQPValue::LongString("no number".into()));
    let options = BasicConsumeOptions::default();
    channel.basic_consume(queue.into(), "doctor".into(), options, arguments).await.map(drop)
}

/// A message of another user is refused after the permission was checked, so nothing is routed.
async fn may_write(channel: Channel, exchange: String) -> Result<(), lapin::Error> {
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let properties = BasicProperties::default().with_user_id(NO_USER.into());
    let (key, options) = ("no-queue".into(), BasicPublishOptions::default());
    let confirm = channel.basic_publish(exchange.into(), key, options, &[], properties).await?;
    confirm.await.map(drop)
}

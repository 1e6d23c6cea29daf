//! Whether the broker has paused publishing.

use std::time::Duration;

use lapin::{
    BasicProperties, Connection,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};

use crate::ports::error::BrokerError;

use super::connection::{RETRIES, RabbitConfig, broker_error, with_timeout};

/// How long one answer may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// No queue is bound with it.
const NO_QUEUE: &str = "no-queue";

/// A broker in alarm accepts the first message of a connection, and then informs it and reads nothing more. This publishes
/// two messages that no queue receives.
pub(super) async fn is_alarmed(config: &RabbitConfig, connection: &Connection) -> Result<bool, BrokerError> {
    let channel = with_timeout(TIMEOUT, connection.create_channel()).await?;
    with_timeout(TIMEOUT, channel.confirm_select(ConfirmSelectOptions::default())).await?;
    let confirmed = async {
        for _ in 0..2 {
            let (exchange, options) = (config.named(RETRIES).into(), BasicPublishOptions::default());
            let properties = BasicProperties::default();
            let confirm = channel.basic_publish(exchange, NO_QUEUE.into(), options, &[], properties).await?;
            confirm.await?;
        }
        Ok(())
    };
    match tokio::time::timeout(TIMEOUT, confirmed).await {
        _ if connection.status().blocked() => Ok(true),
        Ok(Ok(())) => Ok(false),
        Ok(Err(error)) => Err(broker_error(error)),
        Err(_) => {
            Err(BrokerError::Unavailable(format!("a message was not confirmed within {TIMEOUT:?}").into()))
        }
    }
}

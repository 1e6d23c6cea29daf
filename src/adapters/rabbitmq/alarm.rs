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

/// A broker in alarm informs a connection only when it publishes: this publishes a message that no queue receives.
pub(super) async fn is_alarmed(config: &RabbitConfig, connection: &Connection) -> Result<bool, BrokerError> {
    let channel = with_timeout(TIMEOUT, connection.create_channel()).await?;
    with_timeout(TIMEOUT, channel.confirm_select(ConfirmSelectOptions::default())).await?;
    let (exchange, options) = (config.named(RETRIES).into(), BasicPublishOptions::default());
    let properties = BasicProperties::default();
    let confirmed = async {
        let confirm = channel.basic_publish(exchange, NO_QUEUE.into(), options, &[], properties).await?;
        confirm.await
    };
    match tokio::time::timeout(TIMEOUT, confirmed).await {
        Ok(Ok(_)) => Ok(false),
        Ok(Err(error)) => Err(broker_error(error)),
        Err(_) if connection.status().blocked() => Ok(true),
        Err(_) => {
            Err(BrokerError::Unavailable(format!("a message was not confirmed within {TIMEOUT:?}").into()))
        }
    }
}

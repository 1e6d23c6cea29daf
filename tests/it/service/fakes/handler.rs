//! A message handler with a defect.

use allocation::{
    ports::queue::QueueName,
    service::{
        availability::ServerUnavailable,
        batch_handler::{BatchHandler, HandleError},
        message_bus::MessageBus,
        received::ReceivedMessage,
    },
};
use async_trait::async_trait;

/// Handles all messages but the first, and reports success.
pub(crate) struct OmitsFirst(pub(crate) MessageBus);

#[async_trait]
impl BatchHandler for OmitsFirst {
    async fn handle(&self, queue: QueueName, batch: &mut [&mut ReceivedMessage]) -> Result<(), HandleError> {
        self.0.handle(queue, &mut batch[1..]).await
    }

    async fn probe(&self) -> Result<(), ServerUnavailable> {
        self.0.probe().await
    }
}

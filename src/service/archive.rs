//! The handler of dead-letter queues: messages that the broker dead-lettered become failed messages.

use std::sync::Arc;

use async_trait::async_trait;

use crate::ports::{
    observer::Observer,
    queue::{QueueKind, QueueName},
    store::Store,
};

use super::{
    availability::ServerUnavailable,
    batch_handler::{BatchHandler, HandleError},
    failure::Failure,
    policy::FailurePolicy,
    received::ReceivedMessage,
    recording::FailureRecorder,
    reporting::Reporter,
};

/// Records messages that the broker dead-lettered. One that was handled in the meantime is not recorded.
pub struct Archive {
    store: Arc<dyn Store>,
    recorder: FailureRecorder,
    reporter: Reporter,
}

impl Archive {
    /// An archive in a store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, policy: FailurePolicy, observer: Arc<dyn Observer>) -> Self {
        let reporter = Reporter::new(observer, QueueKind::DeadLetter);
        let recorder = FailureRecorder::new(store.clone(), Arc::new(policy), reporter.clone());
        Self { store, recorder, reporter }
    }
}

#[async_trait]
impl BatchHandler for Archive {
    async fn handle(&self, queue: QueueName, batch: &mut [&mut ReceivedMessage]) -> Result<(), HandleError> {
        self.reporter.begin_spans(batch);
        for received in batch {
            let reason = received.message.death_reason.clone().unwrap_or_else(|| "rejected".into());
            let failure = Failure::DeadLetteredByBroker(reason);
            let outcome = self.recorder.record(queue, received, failure, false).await?;
            received.finish(outcome);
        }
        Ok(())
    }

    async fn probe(&self) -> Result<(), ServerUnavailable> {
        Ok(self.store.probe().await?)
    }
}

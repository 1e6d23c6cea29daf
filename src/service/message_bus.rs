//! The handler of commands: isolates messages that may have crashed a worker, and handles the others together.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::RwLock;

use crate::ports::{
    error::StoreError,
    observer::Observer,
    queue::{QueueKind, QueueName},
    store::Store,
};

use super::{
    availability::ServerUnavailable,
    batch_handler::{BatchHandler, HandleError},
    bisect::BisectingProcessor,
    crash_loop::{self, Isolation, RevertedStarts},
    failure::Failure,
    message_check,
    policy::FailurePolicy,
    received::ReceivedMessage,
    reporting::Reporter,
};

/// Handles commands, one or many in one unit of work. A process has one; clones share it.
#[derive(Clone)]
pub struct MessageBus {
    store: Arc<dyn Store>,
    processor: BisectingProcessor,
    /// Held shared while messages are handled, and exclusively while one must be the only one in this process.
    isolation_lock: Arc<RwLock<()>>,
    reverted: Arc<RevertedStarts>,
    reporter: Reporter,
}

impl MessageBus {
    /// A bus over a store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, policy: FailurePolicy, observer: Arc<dyn Observer>) -> Self {
        let reporter = Reporter::new(observer, QueueKind::Main);
        Self {
            processor: BisectingProcessor::new(store.clone(), Arc::new(policy), reporter.clone()),
            reporter,
            store,
            isolation_lock: Arc::default(),
            reverted: Arc::default(),
        }
    }

    async fn handle_isolated(
        &self,
        queue: QueueName,
        batch: &mut [&mut ReceivedMessage],
        isolation: Isolation,
    ) -> Result<(), HandleError> {
        match isolation {
            Isolation::Shared(members) => {
                let _shared = self.isolation_lock.read().await;
                self.handle_group(queue, &mut batch[members]).await
            }
            Isolation::Exclusive(i) => {
                // If it crashes this process, the crash cannot be attributed to another message.
                let _exclusive = self.isolation_lock.write().await;
                self.handle_group(queue, &mut batch[i..=i]).await
            }
            Isolation::GiveUp(i, starts) => {
                let failure = Failure::CrashLoop(starts);
                let outcome = self.processor.recorder.record(queue, batch[i], failure, false).await?;
                batch[i].finish(outcome);
                Ok(())
            }
        }
    }

    async fn handle_group(
        &self,
        queue: QueueName,
        group: &mut [&mut ReceivedMessage],
    ) -> Result<(), HandleError> {
        crash_loop::record_starts(&*self.store, queue, group).await?;
        for run in message_check::runs(group) {
            self.processor.handle(queue, &mut group[run]).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl BatchHandler for MessageBus {
    async fn handle(&self, queue: QueueName, batch: &mut [&mut ReceivedMessage]) -> Result<(), HandleError> {
        self.reporter.begin_spans(batch);
        match self.reverted.write(&*self.store).await {
            Ok(()) | Err(StoreError::Conflict(_) | StoreError::Locked(_)) => {} // After a conflict the next call writes them.
            Err(error) => return Err(error.into()),
        }
        // In the order of arrival: commands about one line or batch must not overtake each other.
        for isolation in crash_loop::isolate(&*self.store, queue, batch, &self.reporter).await? {
            self.handle_isolated(queue, batch, isolation).await?;
        }
        Ok(())
    }

    async fn probe(&self) -> Result<(), ServerUnavailable> {
        self.store.probe().await?;
        self.reverted.write(&*self.store).await?;
        Ok(())
    }

    /// Reverts the recorded starts of these messages: this process ends in order, or waits for a server, and has not
    /// crashed. What cannot be written now is written before this process handles a message again.
    async fn release(&self, queue: QueueName, batch: &[&ReceivedMessage]) {
        self.reverted.add(queue, batch);
        let _ = self.reverted.write(&*self.store).await;
    }
}

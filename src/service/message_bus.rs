//! The handler of commands: isolates messages that may have crashed a worker, and handles the others together.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::RwLock;

use crate::ports::{queue::QueueName, store::Store};

use super::{
    availability::ServerUnavailable,
    batch_handler::{BatchHandler, HandleError, block_after_conflict},
    bisect::BisectingProcessor,
    blocked::BlockedKeys,
    crash_loop::{self, Isolation, RevertedStarts},
    failure::Failure,
    message_check,
    outcome::CommandOutcome,
    policy::FailurePolicy,
    received::ReceivedMessage,
};

/// Handles commands, one or many in one unit of work. A process has one; clones share it.
#[derive(Clone)]
pub struct MessageBus {
    store: Arc<dyn Store>,
    processor: BisectingProcessor,
    /// Held shared while messages are handled, and exclusively while one must be the only one in this process.
    isolation_lock: Arc<RwLock<()>>,
    reverted: Arc<RevertedStarts>,
}

impl MessageBus {
    /// A bus over a store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, policy: FailurePolicy) -> Self {
        Self {
            processor: BisectingProcessor::new(store.clone(), Arc::new(policy)),
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
        blocked: &mut BlockedKeys,
    ) -> Result<(), HandleError> {
        match isolation {
            Isolation::Shared(members) => {
                let _shared = self.isolation_lock.read().await;
                self.handle_group(queue, &mut batch[members], blocked).await
            }
            Isolation::Exclusive(i) => {
                // If it crashes this process, the crash cannot be attributed to another message.
                let _exclusive = self.isolation_lock.write().await;
                self.handle_group(queue, &mut batch[i..=i], blocked).await
            }
            Isolation::GiveUp(i, starts) => {
                let failure = Failure::CrashLoop(starts);
                let outcome = self.processor.recorder.record(queue, batch[i], failure, false).await?;
                if let CommandOutcome::Blocked(_) = outcome {
                    blocked.add(batch[i]);
                }
                batch[i].finish(outcome);
                Ok(())
            }
        }
    }

    async fn handle_group(
        &self,
        queue: QueueName,
        group: &mut [&mut ReceivedMessage],
        blocked: &mut BlockedKeys,
    ) -> Result<(), HandleError> {
        let mut group = blocked.admit(group);
        crash_loop::record_starts(&*self.store, queue, &mut group).await?;
        for run in message_check::runs(&group) {
            self.processor.handle(queue, &mut group[run], blocked).await?;
        }
        Ok(())
    }

    async fn handle_in_order(
        &self,
        queue: QueueName,
        batch: &mut [&mut ReceivedMessage],
    ) -> Result<(), HandleError> {
        let mut blocked = BlockedKeys::default();
        // In the order of arrival: commands about one line or batch must not overtake each other.
        for isolation in crash_loop::isolate(&*self.store, queue, batch).await? {
            self.handle_isolated(queue, batch, isolation, &mut blocked).await?;
        }
        Ok(())
    }

    /// A message that waits for a lock has not crashed this process, however long it waits.
    fn revert_starts_of_blocked(&self, queue: QueueName, batch: &mut [&mut ReceivedMessage]) {
        for received in batch.iter_mut().filter(|received| received.start_recorded && received.is_blocked()) {
            self.reverted.add(queue, &[&**received]);
            received.start_recorded = false;
        }
    }
}

#[async_trait]
impl BatchHandler for MessageBus {
    async fn handle(&self, queue: QueueName, batch: &mut [&mut ReceivedMessage]) -> Result<(), HandleError> {
        match self.reverted.write(&*self.store).await {
            Err(error) if !error.is_conflict() => return Err(error.into()),
            _ => {} // After a conflict the next call writes them.
        }
        let handled = self.handle_in_order(queue, batch).await;
        let handled = block_after_conflict(handled, batch);
        self.revert_starts_of_blocked(queue, batch);
        handled
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

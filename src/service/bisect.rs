//! Divides a unit of work that failed, until each failure is the failure of one command.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::ports::{answered::Answered, error::StoreError, queue::QueueName, store::Store};

use super::{
    backoff::Backoff,
    batch_handler::HandleError,
    failure::{Failure, FailureClass, classify},
    outcome::CommandOutcome,
    policy::FailurePolicy,
    process::CommandProcessor,
    received::ReceivedMessage,
    recording::FailureRecorder,
    unit_of_work::UnitOfWorkError,
};

/// Commands of a larger unit of work that failed are handled again in units of work of this size, and then one by one.
const BISECT_SIZE: usize = 32;
/// A unit of work that took longer to fail is handled again one by one: each part could take as long.
const BISECT_WITHIN: Duration = Duration::from_secs(1);

/// Handles commands in as few units of work as their failures allow.
#[derive(Clone)]
pub(super) struct BisectingProcessor {
    processor: CommandProcessor,
    pub(super) recorder: FailureRecorder,
}

impl BisectingProcessor {
    pub(super) fn new(store: Arc<dyn Store>, policy: Arc<FailurePolicy>) -> Self {
        Self {
            processor: CommandProcessor::new(store.clone(), policy.clone()),
            recorder: FailureRecorder::new(store, policy),
        }
    }

    /// Handles messages that may share a unit of work. `in_doubt` means that an earlier unit of work with these messages may
    /// have been committed.
    pub(super) async fn handle(
        &self,
        queue: QueueName,
        run: &mut [&mut ReceivedMessage],
        in_doubt: bool,
    ) -> Result<(), HandleError> {
        let begin = Instant::now();
        let failed = match self.with_conflict_retry(queue, run).await {
            Ok(outcomes) => {
                for (received, outcome) in Answered::new(run.iter_mut().collect(), outcomes)? {
                    received.finish(outcome);
                }
                return Ok(());
            }
            Err(error) => self.recorder.unless_outage(error).await?,
        };
        let in_doubt = in_doubt || matches!(failed.failure, Failure::Store(StoreError::CommitUnknown(_)));
        if let [received] = run {
            let outcome = self.recorder.record(queue, received, failed, in_doubt).await?;
            received.finish(outcome);
            return Ok(());
        }
        let size = if run.len() > BISECT_SIZE && begin.elapsed() < BISECT_WITHIN { BISECT_SIZE } else { 1 };
        for part in run.chunks_mut(size) {
            Box::pin(self.handle(queue, part, in_doubt)).await?;
        }
        Ok(())
    }

    /// Retries immediately, a few times, after a conflict with another transaction.
    async fn with_conflict_retry(
        &self,
        queue: QueueName,
        run: &[&mut ReceivedMessage],
    ) -> Result<Vec<CommandOutcome>, UnitOfWorkError> {
        let batch: Vec<_> = run.iter().map(|received| &**received).collect();
        let mut delays = Backoff::after_conflict();
        loop {
            match self.processor.unit_of_work(queue, &batch).await {
                Err(UnitOfWorkError::Failed(failed))
                    if classify(&failed.failure) == FailureClass::Conflict =>
                {
                    match delays.next() {
                        Some(delay) => tokio::time::sleep(delay).await,
                        None => return Err(failed.into()),
                    }
                }
                result => return result,
            }
        }
    }
}

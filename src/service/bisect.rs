//! Divides a unit of work that failed, until each failure is the failure of one command.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::ports::{
    answered::Answered,
    error::StoreError,
    queue::QueueName,
    store::{LockMode, Store},
};

use super::{
    backoff::Backoff,
    batch_handler::HandleError,
    contention::{Contention, LockedRow},
    failure::{Failure, FailureClass, classify},
    outcome::CommandOutcome,
    policy::FailurePolicy,
    process::CommandProcessor,
    received::ReceivedMessage,
    recording::FailureRecorder,
    reporting::Reporter,
    unit_of_work::{HandlingFailure, UnitOfWorkError},
};

/// Commands of a larger unit of work that failed are handled again in units of work of this size, and then one by one.
const BISECT_SIZE: usize = 32;
/// A unit of work that took longer to fail is handled again one by one: each part could take as long.
const BISECT_WITHIN: Duration = Duration::from_secs(1);

/// Handles commands in as few units of work as their failures and the locks of other sessions allow.
#[derive(Clone)]
pub(super) struct BisectingProcessor {
    processor: CommandProcessor,
    pub(super) recorder: FailureRecorder,
    contention: Arc<Contention>,
}

impl BisectingProcessor {
    pub(super) fn new(store: Arc<dyn Store>, policy: Arc<FailurePolicy>, reporter: Reporter) -> Self {
        let contention = Arc::<Contention>::default();
        Self {
            processor: CommandProcessor::new(store.clone(), policy.clone(), reporter.clone())
                .with_contention(contention.clone()),
            recorder: FailureRecorder::new(store, policy, reporter),
            contention,
        }
    }

    /// Handles messages that may share a unit of work. Those that lately needed a locked row which must be awaited have one of
    /// their own, so that the others wait for no lock.
    pub(super) async fn handle(
        &self,
        queue: QueueName,
        run: &mut [&mut ReceivedMessage],
    ) -> Result<(), HandleError> {
        let (mut contended, mut others) = (Vec::new(), Vec::new());
        for received in run.iter_mut() {
            let is_contended = self.contention.lately(received) == Some(LockedRow::Other);
            if is_contended { &mut contended } else { &mut others }.push(&mut **received);
        }
        for (mut part, locks) in [(others, LockMode::Wait), (contended, LockMode::Skip)] {
            if !part.is_empty() {
                self.handle_part(queue, &mut part, locks, false).await?;
            }
        }
        Ok(())
    }

    /// `in_doubt` means that an earlier unit of work with these messages may have been committed.
    async fn handle_part(
        &self,
        queue: QueueName,
        run: &mut [&mut ReceivedMessage],
        locks: LockMode,
        in_doubt: bool,
    ) -> Result<(), HandleError> {
        let begin = Instant::now();
        let failed = match self.unit_of_work(queue, run, locks).await {
            Ok(outcomes) => return self.finish(run, outcomes),
            Err(error) => self.recorder.unless_outage(error).await?,
        };
        let in_doubt = in_doubt || matches!(failed.failure, Failure::Store(StoreError::CommitUnknown(_)));
        if classify(&failed.failure) == FailureClass::Conflict {
            return self.handle_by_key(queue, run, failed, in_doubt).await;
        }
        if let [received] = run {
            let outcome = self.recorder.record(queue, received, failed, in_doubt).await?;
            return self.finish(run, vec![outcome]);
        }
        let size = if run.len() > BISECT_SIZE && begin.elapsed() < BISECT_WITHIN { BISECT_SIZE } else { 1 };
        for part in run.chunks_mut(size) {
            Box::pin(self.handle_part(queue, part, locks, in_doubt)).await?;
        }
        Ok(())
    }

    /// Another transaction prevented the unit of work: the messages of each partition key have one of their own. Those of a
    /// key that still cannot be handled are postponed.
    async fn handle_by_key(
        &self,
        queue: QueueName,
        run: &mut [&mut ReceivedMessage],
        failed: HandlingFailure,
        in_doubt: bool,
    ) -> Result<(), HandleError> {
        let mut groups = by_partition_key(run);
        let [group] = groups.as_mut_slice() else {
            for group in &mut groups {
                Box::pin(self.handle_part(queue, group, LockMode::Skip, in_doubt)).await?;
            }
            return Ok(());
        };
        for received in group {
            let outcome = self.recorder.record(queue, received, failed.clone(), in_doubt).await?;
            self.contention.met(received, LockedRow::Other);
            received.finish(outcome);
        }
        Ok(())
    }

    fn finish(
        &self,
        run: &mut [&mut ReceivedMessage],
        outcomes: Vec<CommandOutcome>,
    ) -> Result<(), HandleError> {
        for (received, outcome) in Answered::new(run.iter_mut().collect(), outcomes)? {
            match outcome {
                CommandOutcome::Recorded(Failure::Store(StoreError::Locked(_)), _)
                | CommandOutcome::Reported(Failure::Store(StoreError::Locked(_))) => {
                    self.contention.met(received, LockedRow::Product);
                }
                CommandOutcome::Handled => self.contention.over(received),
                _ => {}
            }
            received.finish(outcome);
        }
        Ok(())
    }

    /// After a lock of another session was awaited in vain, leaves out what is locked. After another conflict tries again
    /// immediately, a few times.
    async fn unit_of_work(
        &self,
        queue: QueueName,
        run: &[&mut ReceivedMessage],
        mut locks: LockMode,
    ) -> Result<Vec<CommandOutcome>, UnitOfWorkError> {
        let batch: Vec<_> = run.iter().map(|received| &**received).collect();
        let mut delays = Backoff::after_conflict();
        loop {
            let failed = match self.processor.unit_of_work(queue, &batch, locks).await {
                Err(UnitOfWorkError::Failed(failed)) => failed,
                result => return result,
            };
            match (&failed.failure, locks) {
                (Failure::Store(StoreError::Locked(_)), LockMode::Wait) => locks = LockMode::Skip,
                (Failure::Store(StoreError::Conflict(_) | StoreError::AlreadyExists(_)), _) => {
                    match delays.next() {
                        Some(delay) => tokio::time::sleep(delay).await,
                        None => return Err(failed.into()),
                    }
                }
                _ => return Err(failed.into()),
            }
        }
    }
}

/// The messages of each partition key in their order, and each message without one. Keys are in the order of their first
/// messages.
fn by_partition_key<'a>(run: &'a mut [&mut ReceivedMessage]) -> Vec<Vec<&'a mut ReceivedMessage>> {
    let mut groups: Vec<Vec<&mut ReceivedMessage>> = Vec::new();
    let mut index = HashMap::new();
    for received in run.iter_mut() {
        let next = groups.len();
        let group = received.partition_key().map_or(next, |key| *index.entry(key.to_owned()).or_insert(next));
        if group == next {
            groups.push(Vec::new());
        }
        groups[group].push(&mut **received);
    }
    groups
}

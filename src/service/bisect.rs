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
    backoff::Backoff, batch_handler::HandleError, blocked::BlockedKeys, contention::Contention,
    failure::Failure, outcome::CommandOutcome, policy::FailurePolicy, process::CommandProcessor,
    received::ReceivedMessage, recording::FailureRecorder, unit_of_work::UnitOfWorkError,
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
    pub(super) fn new(store: Arc<dyn Store>, policy: Arc<FailurePolicy>) -> Self {
        Self {
            processor: CommandProcessor::new(store.clone(), policy.clone()),
            recorder: FailureRecorder::new(store, policy),
            contention: Arc::default(),
        }
    }

    /// Handles messages that may share a unit of work. Those that were blocked lately have one of their own.
    pub(super) async fn handle(
        &self,
        queue: QueueName,
        run: &mut [&mut ReceivedMessage],
        blocked: &mut BlockedKeys,
    ) -> Result<(), HandleError> {
        let (mut known, mut others) = (Vec::new(), Vec::new());
        for received in blocked.admit(run) {
            if self.contention.concerns(received) { &mut known } else { &mut others }.push(received);
        }
        for part in [&mut others, &mut known] {
            if !part.is_empty() {
                self.handle_part(queue, part, false, blocked).await?;
            }
        }
        Ok(())
    }

    /// `in_doubt` means that an earlier unit of work with these messages may have been committed.
    async fn handle_part(
        &self,
        queue: QueueName,
        run: &mut [&mut ReceivedMessage],
        in_doubt: bool,
        blocked: &mut BlockedKeys,
    ) -> Result<(), HandleError> {
        let begin = Instant::now();
        let failed = match self.unit_of_work(queue, run).await {
            Ok(outcomes) => return self.finish(run, outcomes, blocked),
            Err(error) => self.recorder.unless_outage(error).await?,
        };
        if let Failure::Store(error) = &failed.failure
            && error.is_conflict()
        {
            return self.handle_by_key(queue, run, error, in_doubt, blocked).await;
        }
        let in_doubt = in_doubt || matches!(failed.failure, Failure::Store(StoreError::CommitUnknown(_)));
        if let [received] = run {
            let outcome = self.recorder.record(queue, received, failed, in_doubt).await?;
            return self.finish(run, vec![outcome], blocked);
        }
        let size = if run.len() > BISECT_SIZE && begin.elapsed() < BISECT_WITHIN { BISECT_SIZE } else { 1 };
        for part in run.chunks_mut(size) {
            let mut part = blocked.admit(part);
            if !part.is_empty() {
                Box::pin(self.handle_part(queue, &mut part, in_doubt, blocked)).await?;
            }
        }
        Ok(())
    }

    /// Another transaction prevented the unit of work: the messages of each key have one of their own. Those of a key that
    /// still cannot be handled are blocked.
    async fn handle_by_key(
        &self,
        queue: QueueName,
        run: &mut [&mut ReceivedMessage],
        error: &StoreError,
        in_doubt: bool,
        blocked: &mut BlockedKeys,
    ) -> Result<(), HandleError> {
        let mut groups = by_key(run);
        if let [group] = groups.as_mut_slice() {
            for received in group {
                self.contention.met(received);
                blocked.block(received, error.clone());
                if in_doubt && received.awaited {
                    received.finish(CommandOutcome::Unknown);
                }
            }
            return Ok(());
        }
        for group in &mut groups {
            let mut group = blocked.admit(group);
            if !group.is_empty() {
                Box::pin(self.handle_part(queue, &mut group, in_doubt, blocked)).await?;
            }
        }
        Ok(())
    }

    fn finish(
        &self,
        run: &mut [&mut ReceivedMessage],
        outcomes: Vec<CommandOutcome>,
        blocked: &mut BlockedKeys,
    ) -> Result<(), HandleError> {
        for (received, outcome) in Answered::new(run.iter_mut().collect(), outcomes)? {
            if matches!(outcome, CommandOutcome::Blocked(_)) {
                self.contention.met(received);
                blocked.add(received);
            } else {
                self.contention.over(received);
            }
            received.finish(outcome);
        }
        Ok(())
    }

    /// Waits once for a lock of another session, and leaves out what it has locked then. After another conflict it tries
    /// again immediately, a few times.
    async fn unit_of_work(
        &self,
        queue: QueueName,
        run: &[&mut ReceivedMessage],
    ) -> Result<Vec<CommandOutcome>, UnitOfWorkError> {
        let batch: Vec<_> = run.iter().map(|received| &**received).collect();
        let mut locks = self.contention.lock_mode(&batch);
        let mut delays = Backoff::after_conflict();
        loop {
            let failed = match self.processor.unit_of_work(queue, &batch, locks).await {
                Err(UnitOfWorkError::Failed(failed)) => failed,
                result => return result,
            };
            match (&failed.failure, locks) {
                (Failure::Store(StoreError::Locked(_)), LockMode::Wait | LockMode::WaitBriefly) => {
                    locks = LockMode::Skip;
                }
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

/// The messages of each key in their order, and each message without a key. Keys are in the order of their first messages.
fn by_key<'a>(run: &'a mut [&mut ReceivedMessage]) -> Vec<Vec<&'a mut ReceivedMessage>> {
    let mut groups: Vec<Vec<&mut ReceivedMessage>> = Vec::new();
    let mut index = HashMap::new();
    for received in run.iter_mut() {
        let next = groups.len();
        let group = received.ordering_key().map_or(next, |key| *index.entry(key.to_owned()).or_insert(next));
        if group == next {
            groups.push(Vec::new());
        }
        groups[group].push(&mut **received);
    }
    groups
}

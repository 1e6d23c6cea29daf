//! Failures become attempts: in the unit of work in which they happened, or in a transaction of their own.

use std::sync::Arc;

use crate::ports::{
    answered::{MissingAnswers, Slots},
    error::{NotifierError, StoreError},
    observer::Stopwatch,
    queue::QueueName,
    store::{LockMode, Store},
};

use super::{
    attempt::FailureRecord,
    backoff::Backoff,
    batch_handler::HandleError,
    failure::{Failure, FailureClass, classify},
    key_order,
    message_check::{self, MessageCheck},
    outcome::{AttemptRecord, CommandOutcome, Settled, Step},
    policy::FailurePolicy,
    received::ReceivedMessage,
    reporting::Reporter,
    unit_of_work::{HandlingFailure, QueryError, UnitOfWork, UnitOfWorkError},
};

/// A message with its result in a unit of work.
pub(super) struct Processed<'a> {
    pub(super) received: &'a ReceivedMessage,
    pub(super) generation: i64,
    pub(super) step: Step,
    /// The command with its key that was handled after it.
    pub(super) overtaken_by: Option<Arc<str>>,
}

/// Turns results into outcomes. Failures are recorded in the same unit of work, or reported if the sender waits.
pub(super) async fn record_failures(
    uow: &mut UnitOfWork,
    policy: &FailurePolicy,
    processed: Vec<Processed<'_>>,
) -> Result<Vec<Settled>, QueryError> {
    let mut settled = Slots::new(processed.len());
    let (mut failed, mut copies) = (Vec::new(), Vec::new());
    for (index, processed) in processed.into_iter().enumerate() {
        let Processed { received, generation, step, overtaken_by } = processed;
        match step {
            Step::Handled(took) => {
                let handled = Settled::new(CommandOutcome::Handled, generation);
                settled.set(index, Settled { handler: Some(took), ..handled });
            }
            Step::Done(outcome) => settled.set(index, Settled::new(outcome, generation)),
            Step::Failed(failure, took) if received.is_recorded(&failure) => {
                let failure = HandlingFailure { failure, took };
                let record = failure_record(index, received, generation, failure);
                failed.push(FailureRecord { overtaken_by, ..record });
            }
            Step::Failed(failure, took) => {
                settled.set(index, Settled::new(CommandOutcome::Reported(failure), generation).after(took));
            }
            Step::CopyOf(original) => copies.push((index, original)),
        }
    }
    for (failed, record) in uow.record_failures(failed, policy).await? {
        settled.set(failed.index, recorded(failed, record));
    }
    for (copy, original) in copies {
        if let Some(original) = settled.get(original) {
            let of_copy = original.of_copy();
            settled.set(copy, of_copy);
        }
    }
    Ok(settled.finish()?)
}

fn recorded(failed: FailureRecord<'_>, record: AttemptRecord) -> Settled {
    Settled::new(CommandOutcome::Recorded(failed.failure, record), failed.generation).after(failed.took)
}

/// The same for the only message of a unit of work.
pub(super) async fn record_one(
    uow: &mut UnitOfWork,
    policy: &FailurePolicy,
    processed: Processed<'_>,
) -> Result<Settled, QueryError> {
    let mut settled = record_failures(uow, policy, vec![processed]).await?;
    Ok(settled.pop().ok_or(MissingAnswers::NONE)?)
}

fn failure_record(
    index: usize,
    received: &ReceivedMessage,
    generation: i64,
    HandlingFailure { failure, took }: HandlingFailure,
) -> FailureRecord<'_> {
    let (key, message) = (received.failed_message_key(), &received.message);
    let ordering_key = received.ordering_key();
    let trace_id = received.trace_id();
    FailureRecord {
        index,
        key,
        message,
        ordering_key,
        generation,
        overtaken_by: None,
        failure,
        took,
        trace_id,
    }
}

fn is_permanent(failure: &Failure) -> bool {
    matches!(classify(failure), FailureClass::Permanent(_))
}

/// Records failures in transactions of their own.
#[derive(Clone)]
pub(super) struct FailureRecorder {
    store: Arc<dyn Store>,
    policy: Arc<FailurePolicy>,
    reporter: Reporter,
}

impl FailureRecorder {
    pub(super) fn new(store: Arc<dyn Store>, policy: Arc<FailurePolicy>, reporter: Reporter) -> Self {
        Self { store, policy, reporter }
    }

    /// Separates outages, which concern every message, from failures. A store that did not respond is unavailable only if it
    /// does not respond to a probe either; otherwise the question was too much for it.
    pub(super) async fn unless_outage(&self, error: UnitOfWorkError) -> Result<HandlingFailure, HandleError> {
        let failed = match error {
            UnitOfWorkError::Failed(failed) => failed,
            UnitOfWorkError::Missing(missing) => return Err(missing.into()),
        };
        match &failed.failure {
            Failure::Store(error @ StoreError::Unavailable(_)) => Err(error.clone().into()),
            Failure::Store(error @ (StoreError::Timeout(_) | StoreError::CommitUnknown(_)))
                if self.store.probe().await.is_err() =>
            {
                Err(error.clone().into())
            }
            Failure::Notification(error @ NotifierError::Unavailable(_)) => {
                Err(HandleError::Unavailable(error.clone().into()))
            }
            _ => Ok(failed),
        }
    }

    /// Records a failure, unless the message was handled in the meantime. If the sender waits, the failure is reported
    /// instead; `in_doubt` means that an earlier commit may have handled the command.
    pub(super) async fn record(
        &self,
        queue: QueueName,
        received: &ReceivedMessage,
        failed: impl Into<HandlingFailure>,
        in_doubt: bool,
    ) -> Result<CommandOutcome, HandleError> {
        let begin = Stopwatch::start();
        let failed = failed.into();
        let settled = if !received.awaited {
            self.settle(queue, received, &failed).await?
        } else if in_doubt {
            Settled::new(CommandOutcome::Unknown, 0)
        } else {
            Settled::new(CommandOutcome::Reported(failed.failure), 0).after(failed.took)
        };
        self.reporter.failure(queue, received, begin, &settled);
        Ok(settled.outcome)
    }

    async fn settle(
        &self,
        queue: QueueName,
        received: &ReceivedMessage,
        failed: &HandlingFailure,
    ) -> Result<Settled, HandleError> {
        let mut delays = Backoff::after_conflict();
        loop {
            match self.record_once(queue, received, failed).await {
                Ok(settled) => return Ok(settled),
                Err(QueryError::Missing(missing)) => return Err(missing.into()),
                Err(QueryError::Store(error)) => match delays.next() {
                    Some(delay) if !error.is_outage() => tokio::time::sleep(delay).await,
                    // A failure that cannot be recorded keeps its message in the queue.
                    _ => return Err(error.into()),
                },
            }
        }
    }

    /// Tries once to record a failure of a message whose sender does not wait.
    pub(super) async fn record_once(
        &self,
        queue: QueueName,
        received: &ReceivedMessage,
        failed: &HandlingFailure,
    ) -> Result<Settled, QueryError> {
        match self.try_to_record(queue, received, failed).await {
            // Its failure contains a value that the store rejects, and would be rejected each time.
            Err(QueryError::Store(error @ StoreError::InvalidData(_))) => {
                Ok(self.record_in_ascii(queue, received, error).await?)
            }
            recorded => recorded,
        }
    }

    /// Records a message that the store cannot store as it is. Whether it was handled in the meantime is not looked up; if
    /// it was, a retry does nothing.
    async fn record_in_ascii(
        &self,
        queue: QueueName,
        received: &ReceivedMessage,
        error: StoreError,
    ) -> Result<Settled, StoreError> {
        let failed = failure_record(0, received, 0, error.into());
        let mut uow = UnitOfWork::begin(&*self.store, queue, LockMode::Wait).await?;
        let record = uow.record_in_ascii(&failed, &self.policy);
        uow.commit().await?;
        Ok(recorded(failed, record))
    }

    async fn try_to_record(
        &self,
        queue: QueueName,
        received: &ReceivedMessage,
        failed: &HandlingFailure,
    ) -> Result<Settled, QueryError> {
        let mut uow = UnitOfWork::begin(&*self.store, queue, LockMode::Wait).await?;
        let checked = message_check::check_one(&mut uow, received).await?;
        checked.clear_starts(&mut uow);
        match checked.check {
            MessageCheck::Duplicate(_) | MessageCheck::Outdated => {
                uow.commit().await?;
                return Ok(Settled::new(CommandOutcome::Duplicate, checked.generation));
            }
            MessageCheck::New(envelope)
            | MessageCheck::Behind(envelope)
            | MessageCheck::Recorded(envelope) => {
                uow.forget(&envelope.key);
            }
            MessageCheck::CopyOf(_) | MessageCheck::BodyMismatch | MessageCheck::Invalid(_) => {}
        }
        let must_wait = matches!(checked.check, MessageCheck::Behind(_)) && !is_permanent(&failed.failure);
        let step = if must_wait {
            key_order::must_wait()
        } else {
            Step::Failed(failed.failure.clone(), failed.took)
        };
        let processed = Processed { received, generation: checked.generation, step, overtaken_by: None };
        let settled = record_one(&mut uow, &self.policy, processed).await?;
        uow.commit().await?;
        Ok(settled)
    }
}

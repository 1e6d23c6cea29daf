//! Failures on their way into the ledger: in the unit of work they happened in, or in one of their own.

use std::time::Duration;

use crate::ports::{error::StoreError, queue::QueueName};

use super::{
    availability::ServerUnavailable,
    backoff::Backoff,
    dispatch::UnitOfWorkError,
    failure::Failure,
    message_bus::{CommandOutcome, FailurePolicy, MessageBus},
    message_check::{self, CheckedMessage, MessageCheck},
    received::ReceivedMessage,
    unit_of_work::{FailureRecord, UnitOfWork},
};

/// The outcome of a message in its unit of work, before failures are recorded.
pub(super) enum HandlingResult {
    Done(CommandOutcome),
    Failed(Failure, Duration),
    /// As the message at this place, which is a copy of it.
    CopyOf(usize),
}

/// Puts what failed into the ledger, in the same unit of work; a sender that waits for the answer gets it instead.
pub(super) async fn record_failures(
    uow: &mut UnitOfWork,
    policy: &FailurePolicy,
    batch: &[&ReceivedMessage],
    checked: &[CheckedMessage],
    judged: Vec<HandlingResult>,
) -> Result<Vec<CommandOutcome>, StoreError> {
    let mut failed = Vec::new();
    for ((received, checked), judged) in batch.iter().zip(checked).zip(&judged) {
        if let HandlingResult::Failed(failure, took) = judged
            && !received.awaited
        {
            failed.push(failed_message(received, checked.generation, failure, *took));
        }
    }
    let mut next = uow.record_failures(&failed, policy).await?.into_iter();
    let mut outcomes: Vec<CommandOutcome> = Vec::with_capacity(batch.len());
    for (received, judged) in batch.iter().zip(judged) {
        let outcome = match judged {
            HandlingResult::Done(outcome) => outcome,
            HandlingResult::Failed(failure, _) if received.awaited => CommandOutcome::Reported(failure),
            HandlingResult::Failed(failure, _) => {
                let next = next.next().expect("every recorded failure has its next step");
                CommandOutcome::Recorded(failure, next)
            }
            HandlingResult::CopyOf(original) => match &outcomes[original] {
                CommandOutcome::Handled => CommandOutcome::Duplicate,
                as_original => as_original.clone(),
            },
        };
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

fn failed_message<'a>(
    received: &'a ReceivedMessage,
    generation: i64,
    failure: &'a Failure,
    took: Duration,
) -> FailureRecord<'a> {
    FailureRecord {
        key: received.failed_message_key(),
        message: &received.message,
        generation,
        failure,
        took,
    }
}

impl MessageBus {
    /// Records one failure in a unit of work of its own, unless the message was handled meanwhile. A sender that waits for
    /// the answer gets it instead: `in_doubt` says that an earlier commit may have handled its command.
    pub(super) async fn record_in_own_transaction(
        &self,
        queue: QueueName,
        received: &ReceivedMessage,
        broken: UnitOfWorkError,
        in_doubt: bool,
    ) -> Result<CommandOutcome, ServerUnavailable> {
        if received.awaited {
            return Ok(if in_doubt {
                CommandOutcome::Unknown
            } else {
                CommandOutcome::Reported(broken.failure)
            });
        }
        let mut delays = Backoff::after_conflict();
        loop {
            match self.try_to_record(queue, received, &broken).await {
                Ok(outcome) => return Ok(outcome),
                Err(error) => match delays.next() {
                    Some(delay) if !error.is_outage() => tokio::time::sleep(delay).await,
                    // What cannot be recorded is kept where it is, until it can.
                    _ => return Err(error.into()),
                },
            }
        }
    }

    async fn try_to_record(
        &self,
        queue: QueueName,
        received: &ReceivedMessage,
        broken: &UnitOfWorkError,
    ) -> Result<CommandOutcome, StoreError> {
        let UnitOfWorkError { failure, took } = broken;
        let mut uow = UnitOfWork::begin(&*self.store, queue).await?;
        let mut checked = message_check::check(&mut uow, queue, &[received]).await?;
        let CheckedMessage { admission, generation } = checked.remove(0);
        if received.redelivered
            && let Some(key) = received.message_key()
        {
            uow.clear_starts(key);
        }
        match (admission, received.message_key()) {
            (MessageCheck::Duplicate | MessageCheck::Outdated, _) => {
                uow.commit().await?;
                return Ok(CommandOutcome::Duplicate);
            }
            (MessageCheck::New, Some(key)) => uow.forget(key),
            _ => {}
        }
        let failed = failed_message(received, generation, failure, *took);
        let next = uow.record_failures(&[failed], &self.policy).await?;
        uow.commit().await?;
        Ok(CommandOutcome::Recorded(failure.clone(), next[0]))
    }
}

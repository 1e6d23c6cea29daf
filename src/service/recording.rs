//! Failures on their way into the ledger: in the unit of work they happened in, or in one of their own.

use std::time::Duration;

use crate::ports::{queue::QueueName, store::StoreError};

use super::{
    admission::{self, Admission, Checked},
    delays::Delays,
    dispatch::Broken,
    incoming::{Batch, Incoming},
    message_bus::{Fate, MessageBus, Policy},
    outage::Away,
    unit_of_work::{Failed, UnitOfWork},
    verdict::Failure,
};

/// The outcome of a message in its unit of work, before failures are recorded.
pub(super) enum Judged {
    Done(Fate),
    Failed(Failure, Duration),
    /// As the message at this place, which is a copy of it.
    CopyOf(usize),
}

/// Puts what failed into the ledger, in the same unit of work; a sender that waits for the answer gets it instead.
pub(super) async fn record_failures(
    uow: &mut UnitOfWork,
    policy: &Policy,
    batch: &Batch<'_>,
    checked: &[Checked],
    judged: Vec<Judged>,
) -> Result<Vec<Fate>, StoreError> {
    let mut failed = Vec::new();
    for ((incoming, checked), judged) in batch.iter().zip(checked).zip(&judged) {
        if let Judged::Failed(failure, took) = judged
            && !incoming.awaited
        {
            failed.push(failed_message(incoming, checked.generation, failure, *took));
        }
    }
    let mut next = uow.record_failures(&failed, policy).await?.into_iter();
    let mut fates: Vec<Fate> = Vec::with_capacity(batch.len());
    for (incoming, judged) in batch.iter().zip(judged) {
        let fate = match judged {
            Judged::Done(fate) => fate,
            Judged::Failed(failure, _) if incoming.awaited => Fate::Refused(failure),
            Judged::Failed(failure, _) => {
                let next = next.next().expect("every recorded failure has its next step");
                Fate::Failed(failure, next)
            }
            Judged::CopyOf(original) => match &fates[original] {
                Fate::Handled => Fate::Repeat,
                as_original => as_original.clone(),
            },
        };
        fates.push(fate);
    }
    Ok(fates)
}

fn failed_message<'a>(
    incoming: &'a Incoming,
    generation: i64,
    failure: &'a Failure,
    took: Duration,
) -> Failed<'a> {
    Failed { key: incoming.key(), message: &incoming.message, generation, failure, took }
}

impl MessageBus {
    /// Records one failure in a unit of work of its own, unless the message was handled meanwhile. A sender that waits for
    /// the answer gets it instead: `in_doubt` says that an earlier commit may have handled its command.
    pub(super) async fn record_alone(
        &self,
        queue: QueueName,
        incoming: &Incoming,
        broken: Broken,
        in_doubt: bool,
    ) -> Result<Fate, Away> {
        if incoming.awaited {
            return Ok(if in_doubt { Fate::InDoubt } else { Fate::Refused(broken.failure) });
        }
        let mut delays = Delays::after_conflict();
        loop {
            match self.try_to_record(queue, incoming, &broken).await {
                Ok(fate) => return Ok(fate),
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
        incoming: &Incoming,
        broken: &Broken,
    ) -> Result<Fate, StoreError> {
        let Broken { failure, took } = broken;
        let mut uow = UnitOfWork::begin(&*self.store, queue).await?;
        let mut checked = admission::check(&mut uow, queue, &[incoming]).await?;
        let Checked { admission, generation } = checked.remove(0);
        if incoming.redelivered
            && let Some(receipt) = incoming.receipt()
        {
            uow.ended(receipt);
        }
        match (admission, incoming.receipt()) {
            (Admission::Repeat | Admission::Outdated, _) => {
                uow.commit().await?;
                return Ok(Fate::Repeat);
            }
            (Admission::New, Some(receipt)) => uow.leave_unhandled(receipt),
            _ => {}
        }
        let failed = failed_message(incoming, generation, failure, *took);
        let next = uow.record_failures(&[failed], &self.policy).await?;
        uow.commit().await?;
        Ok(Fate::Failed(failure.clone(), next[0]))
    }
}

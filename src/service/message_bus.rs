//! Takes commands through their units of work: handled before? → handler → reactions until no event is left → one commit.

use std::{sync::Arc, time::Duration};

use tokio::{sync::RwLock, time::Instant};

use crate::{
    crash_points::{self, CrashPoint},
    domain::Command,
    ports::{
        error::{NotifierError, StoreError},
        failed_messages::RetryDecision,
        notifier::Notifier,
        queue::QueueName,
        store::{Store, WorkingSet},
    },
};

use super::{
    availability::ServerUnavailable,
    backoff::{Backoff, RetryPolicy},
    crash_loop::{self, Isolation, RevertedStarts},
    dispatch::{self, UnitOfWorkError},
    failure::{Failure, FailureClass, classify},
    message_check::{self, CheckedMessage, MessageCheck},
    notifications,
    received::ReceivedMessage,
    recording::{self, HandlingResult},
    unit_of_work::UnitOfWork,
};

/// Commands of a larger unit of work that broke are handled again so many at a time, and one by one where it breaks again.
const BISECT_SIZE: usize = 32;
/// What took longer to break is handled one by one at once: it may take its time whenever it is tried.
const BISECT_WITHIN: Duration = Duration::from_secs(1);

/// What became of a command.
#[derive(Clone, Debug)]
pub enum CommandOutcome {
    /// It was handled, and what it changed is committed.
    Handled,
    /// It was handled before, or is an outdated copy of a failed message; nothing changed.
    Duplicate,
    /// It was not handled and nothing changed, but the ledger has it.
    Recorded(Failure, RetryDecision),
    /// It was not handled and nothing changed; its sender waits for the answer.
    Reported(Failure),
    /// Whether it was handled is unknown; its sender waits for the answer.
    Unknown,
}

/// A server went away before all messages were handled.
#[derive(Debug, thiserror::Error)]
#[error("a server became unavailable")]
pub struct Interrupted {
    /// The fates of the first messages: they are committed, and can be acknowledged.
    pub done: Vec<CommandOutcome>,
    /// Why the others have none. Whether some of them were committed is unknown, so they are to be handled again; inbox and
    /// ledger tell what was done.
    #[source]
    pub away: ServerUnavailable,
}

/// How the bus treats what goes wrong.
#[derive(Clone, Debug)]
pub struct FailurePolicy {
    /// A handler that takes longer has failed.
    pub handler_timeout: Duration,
    /// How failed attempts are tried again.
    pub retry: RetryPolicy,
    /// Who we are, for the ledger.
    pub host: String,
}

/// Handles commands, one or many in one unit of work. Clones are one bus: a process has one.
#[derive(Clone)]
pub struct MessageBus {
    pub(super) store: Arc<dyn Store>,
    notifier: Arc<dyn Notifier>,
    pub(super) policy: Arc<FailurePolicy>,
    /// Held for reading while messages are handled, for writing while one must be the only one in this process.
    isolation_lock: Arc<RwLock<()>>,
    taken_back: Arc<RevertedStarts>,
}

impl MessageBus {
    /// A bus over a store, with somebody who tells people.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, notifier: Arc<dyn Notifier>, policy: FailurePolicy) -> Self {
        Self {
            store,
            notifier,
            policy: Arc::new(policy),
            isolation_lock: Arc::default(),
            taken_back: Arc::default(),
        }
    }

    /// Whether the store takes writes; and whether the notifier answers, for a queue that needs it.
    ///
    /// # Errors
    /// [`ServerUnavailable`] if one does not.
    pub async fn probe(&self, notifier: bool) -> Result<(), ServerUnavailable> {
        self.store.probe().await?;
        self.taken_back.write(&*self.store).await?;
        if notifier {
            self.notifier.probe().await?;
        }
        Ok(())
    }

    /// Handles messages that came from `queue`. Each has its own fate, in the order given.
    ///
    /// # Errors
    /// [`Interrupted`], with the fates of those that were handled before.
    pub async fn handle(
        &self,
        queue: QueueName,
        batch: &[ReceivedMessage],
    ) -> Result<Vec<CommandOutcome>, Interrupted> {
        let mut outcomes = Vec::with_capacity(batch.len());
        match self.handle_in_order(queue, batch, &mut outcomes).await {
            Ok(()) => Ok(outcomes),
            Err(away) => Err(Interrupted { done: outcomes, away }),
        }
    }

    async fn handle_in_order(
        &self,
        queue: QueueName,
        batch: &[ReceivedMessage],
        outcomes: &mut Vec<CommandOutcome>,
    ) -> Result<(), ServerUnavailable> {
        if queue == QueueName::Notifications {
            for received in batch {
                outcomes.push(self.handle_notification(queue, received).await?);
            }
            return Ok(());
        }
        match self.taken_back.write(&*self.store).await {
            Ok(()) | Err(StoreError::Conflict(_)) => {} // Another transaction has the row: the next time will do.
            Err(error) => return Err(error.into()),
        }
        // In the order of arrival: commands about one line or batch must not overtake each other.
        for group in crash_loop::groups(&*self.store, queue, batch).await? {
            match group {
                Isolation::Shared(members) => {
                    let _others_may = self.isolation_lock.read().await;
                    let together: Vec<_> = batch[members].iter().collect();
                    self.handle_group(queue, &together, outcomes).await?;
                }
                Isolation::Exclusive(i) => {
                    // If it kills this process, nothing else was being handled that could be taken for the cause.
                    let _nothing_else = self.isolation_lock.write().await;
                    self.handle_group(queue, &[&batch[i]], outcomes).await?;
                }
                Isolation::GiveUp(i, deaths) => {
                    let failure = Failure::CrashLoop(deaths);
                    outcomes
                        .push(self.record_in_own_transaction(queue, &batch[i], failure.into(), false).await?);
                }
            }
        }
        Ok(())
    }

    /// Records messages that the broker put aside. One that was handled meanwhile is left alone.
    ///
    /// # Errors
    /// As [`MessageBus::handle`].
    pub async fn archive(
        &self,
        queue: QueueName,
        batch: &[ReceivedMessage],
    ) -> Result<Vec<CommandOutcome>, Interrupted> {
        let mut done = Vec::with_capacity(batch.len());
        for received in batch {
            let why = received.message.death_reason.clone().unwrap_or_else(|| "rejected".into());
            let failure = Failure::DeadLetteredByBroker(why);
            match self.record_in_own_transaction(queue, received, failure.into(), false).await {
                Ok(outcome) => done.push(outcome),
                Err(away) => return Err(Interrupted { done, away }),
            }
        }
        Ok(done)
    }

    /// Takes back the starts that were counted for messages which go back to their queue: this process ends in good order,
    /// or waits for a server, and has not crashed over them. What cannot be written now is written before this process
    /// handles anything again.
    pub async fn revert_starts(&self, queue: QueueName, batch: &[ReceivedMessage]) {
        self.taken_back.add(queue, batch);
        let _ = self.taken_back.write(&*self.store).await;
    }

    /// The mail is sent inside the unit of work: its row in the inbox keeps other processes from sending it at the same
    /// time. Starts are not counted, and nothing else waits: a slow mail server holds up no other message.
    async fn handle_notification(
        &self,
        queue: QueueName,
        received: &ReceivedMessage,
    ) -> Result<CommandOutcome, ServerUnavailable> {
        let mut delays = Backoff::during_outage();
        loop {
            let broken = match self.unit_of_work(queue, &[received]).await {
                Ok(mut outcomes) => return Ok(outcomes.remove(0)),
                Err(broken) => self.away(broken).await?,
            };
            if classify(&broken.failure) != FailureClass::Conflict {
                return self.record_in_own_transaction(queue, received, broken, false).await;
            }
            // Another process has the row and may be sending the mail.
            tokio::time::sleep(delays.next().unwrap_or_default()).await;
        }
    }

    async fn handle_group(
        &self,
        queue: QueueName,
        group: &[&ReceivedMessage],
        outcomes: &mut Vec<CommandOutcome>,
    ) -> Result<(), ServerUnavailable> {
        crash_loop::record_starts(&*self.store, queue, group).await?;
        for run in message_check::runs(group) {
            self.handle_bisecting(queue, run, false, outcomes).await?;
        }
        Ok(())
    }

    /// All in one unit of work; if that breaks, in smaller ones, and in the end each in its own, so that a failure is the
    /// failure of one command. `in_doubt`: an earlier unit of work with these messages may have been committed.
    async fn handle_bisecting(
        &self,
        queue: QueueName,
        run: &[&ReceivedMessage],
        in_doubt: bool,
        outcomes: &mut Vec<CommandOutcome>,
    ) -> Result<(), ServerUnavailable> {
        let begin = Instant::now();
        let broken = match self.with_conflict_retry(queue, run).await {
            Ok(of_run) => {
                outcomes.extend(of_run);
                return Ok(());
            }
            Err(broken) => self.away(broken).await?,
        };
        let in_doubt = in_doubt || matches!(broken.failure, Failure::Store(StoreError::CommitUnknown(_)));
        if let [received] = run {
            outcomes.push(self.record_in_own_transaction(queue, received, broken, in_doubt).await?);
            return Ok(());
        }
        let smaller =
            if run.len() > BISECT_SIZE && begin.elapsed() < BISECT_WITHIN { BISECT_SIZE } else { 1 };
        for portion in run.chunks(smaller) {
            Box::pin(self.handle_bisecting(queue, portion, in_doubt, outcomes)).await?;
        }
        Ok(())
    }

    /// An outage concerns every message; any other failure is looked at more closely. So is silence, if the store answers
    /// others: then it was what was asked.
    async fn away(&self, broken: UnitOfWorkError) -> Result<UnitOfWorkError, ServerUnavailable> {
        match &broken.failure {
            Failure::Store(error @ StoreError::Unavailable(_)) => Err(error.clone().into()),
            Failure::Store(error @ (StoreError::Timeout(_) | StoreError::CommitUnknown(_)))
                if self.store.probe().await.is_err() =>
            {
                Err(error.clone().into())
            }
            Failure::Notification(error @ NotifierError::Unavailable(_)) => Err(error.clone().into()),
            _ => Ok(broken),
        }
    }

    /// Tries again at once, a few times, when another transaction was in the way.
    async fn with_conflict_retry(
        &self,
        queue: QueueName,
        batch: &[&ReceivedMessage],
    ) -> Result<Vec<CommandOutcome>, UnitOfWorkError> {
        let mut delays = Backoff::after_conflict();
        loop {
            match self.unit_of_work(queue, batch).await {
                Err(broken) if classify(&broken.failure) == FailureClass::Conflict => match delays.next() {
                    Some(delay) => tokio::time::sleep(delay).await,
                    None => return Err(broken),
                },
                outcome => return outcome,
            }
        }
    }

    async fn unit_of_work(
        &self,
        queue: QueueName,
        batch: &[&ReceivedMessage],
    ) -> Result<Vec<CommandOutcome>, UnitOfWorkError> {
        let mut uow = UnitOfWork::begin(&*self.store, queue).await?;
        crash_points::here(CrashPoint::WorkerBegun);
        match self.process(&mut uow, queue, batch).await {
            Ok(outcomes) => {
                uow.commit().await?;
                Ok(outcomes)
            }
            Err(broken) => {
                uow.rollback().await;
                Err(broken)
            }
        }
    }

    async fn process(
        &self,
        uow: &mut UnitOfWork,
        queue: QueueName,
        batch: &[&ReceivedMessage],
    ) -> Result<Vec<CommandOutcome>, UnitOfWorkError> {
        let checked = message_check::check(uow, queue, batch).await?;
        crash_points::here(CrashPoint::WorkerInboxWritten);
        let mut working_set = WorkingSet::default();
        for (received, checked) in batch.iter().zip(&checked) {
            if let (MessageCheck::New, Ok(envelope)) = (&checked.admission, &received.decoded) {
                working_set.cover(&envelope.command);
            }
        }
        uow.load(&working_set).await?;
        let mut judged = Vec::with_capacity(batch.len());
        for (received, checked) in batch.iter().zip(&checked) {
            judged.push(self.process_message(uow, received, checked).await?);
            if received.redelivered
                && let Some(key) = received.message_key()
            {
                uow.clear_starts(key);
            }
        }
        Ok(recording::record_failures(uow, &self.policy, batch, &checked, judged).await?)
    }

    /// The error breaks the unit of work; a failure inside is this message's own.
    async fn process_message(
        &self,
        uow: &mut UnitOfWork,
        received: &ReceivedMessage,
        checked: &CheckedMessage,
    ) -> Result<HandlingResult, UnitOfWorkError> {
        let failed = |failure| Ok(HandlingResult::Failed(failure, Duration::ZERO));
        match (&checked.admission, &received.decoded) {
            (MessageCheck::Outdated, _) => Ok(HandlingResult::Done(CommandOutcome::Duplicate)),
            (MessageCheck::Rejected(refusal), _) => failed(refusal.clone().into()),
            (_, Err(undecodable)) => failed(undecodable.clone().into()),
            (MessageCheck::BodyMismatch, _) => failed(Failure::BodyMismatch),
            (MessageCheck::CopyOf(original), _) => Ok(HandlingResult::CopyOf(*original)),
            (MessageCheck::Duplicate, Ok(envelope)) => {
                // A retry of what was handled by another copy has nothing left to do.
                if checked.generation > 0 {
                    uow.mark_handled(&envelope.key);
                }
                Ok(HandlingResult::Done(CommandOutcome::Duplicate))
            }
            (MessageCheck::New, Ok(envelope)) => {
                let begin = Instant::now();
                let handled = if let Command::NotifyOutOfStock(notification) = &envelope.command {
                    notifications::send(&*self.notifier, received, envelope, notification).await
                } else {
                    let handled = dispatch::run_handler(uow, envelope, self.policy.handler_timeout).await?;
                    handled.map_err(Failure::from)
                };
                match handled {
                    Ok(()) => {
                        uow.mark_handled(&envelope.key);
                        Ok(HandlingResult::Done(CommandOutcome::Handled))
                    }
                    Err(failure @ Failure::Notification(NotifierError::Unavailable(_))) => {
                        Err(failure.into())
                    }
                    Err(failure) => {
                        uow.forget(&envelope.key);
                        Ok(HandlingResult::Failed(failure, begin.elapsed()))
                    }
                }
            }
        }
    }
}

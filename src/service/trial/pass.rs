//! One dry run over messages.

use std::{sync::Arc, time::Duration};

use crate::{
    ports::{
        answered::{Answered, MissingAnswers},
        error::StoreError,
        observer::NoObserver,
        queue::{QueueKind, QueueName},
        store::{LockMode, Store},
    },
    service::{
        effects::EffectLog,
        failure::Failure,
        message_check,
        notifications::NotificationHandler,
        outcome::CommandOutcome,
        policy::FailurePolicy,
        process::CommandProcessor,
        received::ReceivedMessage,
        recording::FailureRecorder,
        reporting::Reporter,
        unit_of_work::{HandlingFailure, QueryError, UnitOfWorkError},
    },
};

use super::{mail::UnsentMail, report::MailToSend, tried_message::TriedMessage};

/// The longest handler of a dry run: workers may wait for its locks.
const HANDLER_TIME: Duration = Duration::from_secs(1);

/// How a dry run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Each message has its conclusion.
    Complete,
    /// Another session holds a lock: this dry run must end, so that it holds none while the lock is awaited.
    Locked,
}

/// Why a dry run ended without a result.
#[derive(Debug)]
pub(super) enum Interruption {
    Store(StoreError),
    /// A defect of this program.
    Missing(MissingAnswers),
}

impl From<MissingAnswers> for Interruption {
    fn from(missing: MissingAnswers) -> Self {
        Self::Missing(missing)
    }
}

impl From<StoreError> for Interruption {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The result of a unit of work of a dry run.
enum Worked {
    Done(Vec<CommandOutcome>),
    Failed(HandlingFailure),
    /// Another session holds a lock, which is awaited.
    Locked,
}

/// Handles messages as the workers do, in the store of a dry run.
pub(super) struct Pass {
    commands: CommandProcessor,
    notifications: NotificationHandler,
    recorder: FailureRecorder,
    effects: Arc<EffectLog>,
    mail: Arc<UnsentMail>,
    mail_to: String,
    /// The limit of a handler, if it is shorter than that of a worker.
    handler_limit: Option<Duration>,
    locks: LockMode,
}

impl Pass {
    /// Handles messages in the store of a dry run. `policy` is that of the workers.
    pub(super) fn new(store: Arc<dyn Store>, policy: &FailurePolicy, mail_to: &str, locks: LockMode) -> Self {
        let (effects, mail) = (Arc::<EffectLog>::default(), Arc::<UnsentMail>::default());
        let handler_limit = (policy.handler_timeout > HANDLER_TIME).then_some(HANDLER_TIME);
        let handler_timeout = handler_limit.unwrap_or(policy.handler_timeout);
        let policy = FailurePolicy { handler_timeout, ..policy.clone() };
        let shared = Arc::new(policy.clone());
        let reporter = Reporter::new(Arc::new(NoObserver), QueueKind::Main);
        Self {
            commands: CommandProcessor::new(store.clone(), shared.clone(), reporter.clone())
                .with_effects(effects.clone()),
            notifications: NotificationHandler::new(
                store.clone(),
                mail.clone(),
                policy,
                Arc::new(NoObserver),
            ),
            recorder: FailureRecorder::new(store, shared, reporter),
            effects,
            mail,
            mail_to: mail_to.to_owned(),
            handler_limit,
            locks,
        }
    }

    /// Handles messages of one queue, in their order.
    pub(super) async fn handle(
        &self,
        queue: QueueName,
        messages: &mut [&mut TriedMessage],
    ) -> Result<Ended, Interruption> {
        let received: Vec<_> = messages.iter().map(|message| &message.received).collect();
        for run in message_check::runs(&received) {
            if self.handle_run(queue, &mut messages[run]).await? == Ended::Locked {
                return Ok(Ended::Locked);
            }
        }
        Ok(Ended::Complete)
    }

    /// In one unit of work if none of them makes it fail, and otherwise one after another.
    async fn handle_run(
        &self,
        queue: QueueName,
        run: &mut [&mut TriedMessage],
    ) -> Result<Ended, Interruption> {
        if run.len() > 1 && queue != QueueName::Notifications {
            let received: Vec<_> = run.iter().map(|message| &message.received).collect();
            match self.unit_of_work(queue, &received).await? {
                Worked::Done(outcomes) => {
                    for (message, outcome) in Answered::new(run.iter_mut().collect(), outcomes)? {
                        self.finish(message, &outcome);
                    }
                    return Ok(Ended::Complete);
                }
                Worked::Locked => return Ok(Ended::Locked),
                Worked::Failed(_) => {}
            }
        }
        for message in run {
            if self.handle_alone(queue, message).await? == Ended::Locked {
                return Ok(Ended::Locked);
            }
        }
        Ok(Ended::Complete)
    }

    async fn handle_alone(
        &self,
        queue: QueueName,
        message: &mut TriedMessage,
    ) -> Result<Ended, Interruption> {
        let failed = match self.unit_of_work(queue, &[&message.received]).await? {
            Worked::Done(mut outcomes) => {
                self.finish(message, &outcomes.pop().ok_or(MissingAnswers::NONE)?);
                return Ok(Ended::Complete);
            }
            Worked::Locked => return Ok(Ended::Locked),
            Worked::Failed(failed) => failed,
        };
        if is_conflict(&failed.failure) {
            message.busy(&failed.failure);
            return Ok(Ended::Complete);
        }
        match self.recorder.record_once(queue, &message.received, &failed).await {
            Ok(settled) => self.finish(message, &settled.outcome),
            Err(QueryError::Store(error)) if error.is_conflict() => message.busy(&error.into()),
            Err(QueryError::Store(error)) => return Err(error.into()),
            Err(QueryError::Missing(missing)) => return Err(missing.into()),
        }
        Ok(Ended::Complete)
    }

    async fn unit_of_work(
        &self,
        queue: QueueName,
        batch: &[&ReceivedMessage],
    ) -> Result<Worked, Interruption> {
        let worked = match queue {
            QueueName::Notifications => self.notifications.unit_of_work(queue, batch).await,
            QueueName::Orders | QueueName::Stock => {
                self.commands.unit_of_work(queue, batch, self.locks).await
            }
        };
        let failed = match worked {
            Ok(outcomes) => return Ok(Worked::Done(outcomes)),
            Err(UnitOfWorkError::Missing(missing)) => return Err(missing.into()),
            Err(UnitOfWorkError::Failed(failed)) => failed,
        };
        match &failed.failure {
            Failure::Store(error) if error.is_outage() => Err(error.clone().into()),
            failure if is_conflict(failure) && self.locks == LockMode::Wait => Ok(Worked::Locked),
            _ => Ok(Worked::Failed(failed)),
        }
    }

    fn finish(&self, message: &mut TriedMessage, outcome: &CommandOutcome) {
        message.finish(outcome, self.handler_limit);
        if !matches!(outcome, CommandOutcome::Handled) {
            return;
        }
        let Some(key) = message.received.message_key() else { return };
        let (effects, subject) = (self.effects.of(key), self.mail.subject(&key.message_id));
        message.effects = effects;
        message.mail = subject.map(|subject| MailToSend { to: self.mail_to.clone(), subject });
        if message.mail.is_some() {
            message.warn("the mail was not sent: whether the mail server accepts it is not known");
        }
    }
}

/// Whether another session prevents the handling of a message.
fn is_conflict(failure: &Failure) -> bool {
    matches!(failure, Failure::Store(error) if error.is_conflict())
}

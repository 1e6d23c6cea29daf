//! The handler of notifications: sends mail inside a unit of work.
//!
//! Mail cannot be taken back, so it is sent before the commit: a process that is killed in between sends it again, with the
//! same id. Meanwhile the row of the unit of work in the inbox prevents other processes from sending it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use tokio::time::Instant;

use crate::{
    domain::MessageKey,
    ports::{
        answered::{Answered, MissingAnswers},
        error::NotifierError,
        notifier::Notifier,
        observer::{NotificationOutcome, Observer, Report},
        queue::{QueueKind, QueueName},
        store::{LockMode, Store},
    },
};

use super::{
    availability::ServerUnavailable,
    backoff::Backoff,
    batch_handler::{BatchHandler, HandleError},
    decode_error::DecodeError,
    envelope::{Content, Envelope},
    failure::{Failure, FailureClass, classify},
    message_check::{self, CheckedMessage, Remaining},
    notification_text::{NotifiedEvent, notification},
    outcome::{CommandOutcome, Settled, Step},
    policy::FailurePolicy,
    received::ReceivedMessage,
    recording::{self, FailureRecorder, Processed},
    reporting::{Phases, Reporter},
    unit_of_work::{HandlingFailure, UnitOfWork, UnitOfWorkError},
};

/// Notifications that were sent and are not committed, in one process. Beyond this number they are forgotten, and may be
/// sent again.
const MAX_UNCOMMITTED: usize = 1000;

/// Sends mail for events. Starts are not recorded, and nothing waits for a notification: a slow mail server delays no
/// command.
pub struct NotificationHandler {
    store: Arc<dyn Store>,
    notifier: Arc<dyn Notifier>,
    policy: Arc<FailurePolicy>,
    recorder: FailureRecorder,
    reporter: Reporter,
    sent: SentNotifications,
}

impl NotificationHandler {
    /// A handler that sends by `notifier` and records in `store`.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        notifier: Arc<dyn Notifier>,
        policy: FailurePolicy,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let (policy, reporter) = (Arc::new(policy), Reporter::new(observer, QueueKind::Main));
        Self {
            recorder: FailureRecorder::new(store.clone(), policy.clone(), reporter.clone()),
            reporter,
            store,
            notifier,
            policy,
            sent: SentNotifications::default(),
        }
    }

    async fn handle_one(
        &self,
        queue: QueueName,
        received: &ReceivedMessage,
    ) -> Result<CommandOutcome, HandleError> {
        let mut delays = Backoff::during_outage();
        loop {
            let failed = match self.unit_of_work(queue, &[received]).await {
                Ok(mut outcomes) => return Ok(outcomes.pop().ok_or(MissingAnswers::NONE)?),
                Err(error) => self.recorder.unless_outage(error).await?,
            };
            if classify(&failed.failure) != FailureClass::Conflict {
                return self.recorder.record(queue, received, failed, false).await;
            }
            // Another process has locked the row and may be sending the mail.
            tokio::time::sleep(delays.next().unwrap_or_default()).await;
        }
    }

    /// Handles notifications in one unit of work, with one mail.
    pub(super) async fn unit_of_work(
        &self,
        queue: QueueName,
        batch: &[&ReceivedMessage],
    ) -> Result<Vec<CommandOutcome>, UnitOfWorkError> {
        let mut phases = Phases::begin();
        let settled = self.committed(queue, batch, &mut phases).await;
        self.reporter.unit_of_work(queue, batch, &phases, &settled);
        Ok(settled?.into_iter().map(|settled| settled.outcome).collect())
    }

    async fn committed(
        &self,
        queue: QueueName,
        batch: &[&ReceivedMessage],
        phases: &mut Phases,
    ) -> Result<Vec<Settled>, UnitOfWorkError> {
        let mut uow = UnitOfWork::begin(&*self.store, queue, LockMode::Wait).await?;
        let processed = self.process(&mut uow, batch, phases).await;
        uow.finish(processed).await
    }

    async fn process(
        &self,
        uow: &mut UnitOfWork,
        batch: &[&ReceivedMessage],
        phases: &mut Phases,
    ) -> Result<Vec<Settled>, UnitOfWorkError> {
        let checked = message_check::check(uow, batch).await?;
        phases.handle();
        let messages: Vec<_> = checked.into_iter().map(|checked| self.begin(uow, checked)).collect();
        let begin = Instant::now();
        let sent = self.send(&unsent(&messages)).await?;
        let mut processed = Vec::with_capacity(batch.len());
        for BegunMessage { remaining, sent_before, checked: CheckedMessage { received, generation, .. } } in
            messages
        {
            let step = match remaining {
                Remaining::Nothing(step) => step,
                Remaining::Handle(envelope) => {
                    let step = step(envelope, sent_before.or_else(|| sent.clone()), begin);
                    message_check::end(uow, envelope, &step);
                    step
                }
            };
            processed.push(Processed { received, generation, step, overtaken_by: None });
        }
        phases.commit();
        Ok(recording::record_failures(uow, &self.policy, processed).await?)
    }

    /// Begins a message. The earlier result of its mail is read now: another message of the batch may displace it.
    fn begin<'a>(&self, uow: &mut UnitOfWork, checked: CheckedMessage<'a>) -> BegunMessage<'a> {
        let remaining = checked.begin(uow);
        let sent_before = match &remaining {
            Remaining::Handle(envelope) => self.sent.result_of(&envelope.key),
            Remaining::Nothing(_) => None,
        };
        BegunMessage { remaining, sent_before, checked }
    }

    /// Sends one mail about all events, and remembers its result for each of them; `None` without events.
    async fn send(
        &self,
        events: &[NotifiedEvent<'_>],
    ) -> Result<Option<Result<(), NotifierError>>, HandlingFailure> {
        let Some(notification) = notification(events) else { return Ok(None) };
        let result = self.notifier.notify(&notification).await;
        self.reporter.report(&Report::Notification(notification_outcome(&result)));
        match &result {
            Err(error @ NotifierError::Unavailable(_)) => Err(Failure::from(error.clone()).into()),
            // One event may be the cause; the others are sent without it.
            Err(error @ NotifierError::Rejected(_)) if events.len() > 1 => {
                Err(Failure::from(error.clone()).into())
            }
            _ => {
                for (envelope, _) in events {
                    self.sent.remember(&envelope.key, result.clone());
                }
                Ok(Some(result))
            }
        }
    }

    /// Handles several messages in one unit of work, with one mail. False if each must be handled on its own.
    async fn handle_together(
        &self,
        queue: QueueName,
        batch: &mut [&mut ReceivedMessage],
    ) -> Result<bool, HandleError> {
        let messages: Vec<_> = batch.iter().map(|received| &**received).collect();
        let outcomes = match self.unit_of_work(queue, &messages).await {
            Ok(outcomes) => outcomes,
            Err(error) => {
                self.recorder.unless_outage(error).await?;
                return Ok(false);
            }
        };
        for (received, outcome) in Answered::new(batch.iter_mut().collect(), outcomes)? {
            self.sent.forget(received.message_key());
            received.finish(outcome);
        }
        Ok(true)
    }
}

fn notification_outcome(result: &Result<(), NotifierError>) -> NotificationOutcome {
    match result {
        Ok(()) => NotificationOutcome::Sent,
        Err(NotifierError::Deferred(_)) => NotificationOutcome::Deferred,
        Err(NotifierError::Rejected(_)) => NotificationOutcome::Rejected,
        Err(NotifierError::Unavailable(_)) => NotificationOutcome::Unavailable,
    }
}

/// A message of a unit of work.
struct BegunMessage<'a> {
    remaining: Remaining<'a>,
    /// The result of its mail, if this process has sent it before.
    sent_before: Option<Result<(), NotifierError>>,
    checked: CheckedMessage<'a>,
}

/// The events that must be handled and that this process has not sent yet.
fn unsent<'a>(messages: &[BegunMessage<'a>]) -> Vec<NotifiedEvent<'a>> {
    let event = |message: &BegunMessage<'a>| match message {
        BegunMessage { remaining: Remaining::Handle(envelope), sent_before: None, .. } => {
            let envelope: &'a Envelope = envelope;
            match &envelope.content {
                Content::OutOfStock(event) => Some((envelope, event)),
                Content::Command(_) => None,
            }
        }
        _ => None,
    };
    messages.iter().filter_map(event).collect()
}

/// The result of an event whose mail was sent.
fn step(envelope: &Envelope, sent: Option<Result<(), NotifierError>>, begin: Instant) -> Step {
    match (&envelope.content, sent) {
        (Content::OutOfStock(_), Some(Ok(()))) => Step::Handled(begin.elapsed()),
        (Content::OutOfStock(_), Some(Err(error))) => Step::Failed(error.into(), begin.elapsed()),
        _ => Step::failed(DecodeError::unexpected(envelope.key.kind)),
    }
}

#[async_trait]
impl BatchHandler for NotificationHandler {
    async fn handle(&self, queue: QueueName, batch: &mut [&mut ReceivedMessage]) -> Result<(), HandleError> {
        self.reporter.begin_spans(batch);
        if batch.len() > 1 && self.handle_together(queue, batch).await? {
            return Ok(());
        }
        for received in batch {
            let outcome = self.handle_one(queue, received).await?;
            self.sent.forget(received.message_key());
            received.finish(outcome);
        }
        Ok(())
    }

    async fn probe(&self) -> Result<(), ServerUnavailable> {
        self.store.probe().await?;
        Ok(self.notifier.probe().await?)
    }
}

/// The results of notifications that this process has sent and whose units of work are not committed.
#[derive(Default)]
struct SentNotifications {
    results: Mutex<HashMap<MessageKey, Result<(), NotifierError>>>,
}

impl SentNotifications {
    fn result_of(&self, key: &MessageKey) -> Option<Result<(), NotifierError>> {
        self.lock().get(key).cloned()
    }

    fn remember(&self, key: &MessageKey, result: Result<(), NotifierError>) {
        let mut results = self.lock();
        if results.len() >= MAX_UNCOMMITTED {
            results.clear();
        }
        results.insert(key.clone(), result);
    }

    fn forget(&self, key: Option<&MessageKey>) {
        if let Some(key) = key {
            self.lock().remove(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<MessageKey, Result<(), NotifierError>>> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

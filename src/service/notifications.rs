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
        error::NotifierError,
        notifier::{Notification, Notifier},
        queue::QueueName,
        store::Store,
        text::sanitize,
    },
};

use super::{
    availability::ServerUnavailable,
    backoff::Backoff,
    batch_handler::{BatchHandler, HandleError},
    decode_error::DecodeError,
    envelope::{Content, Envelope, OutOfStockNotification},
    failure::{Failure, FailureClass, classify},
    message_check::{self, Remaining},
    outcome::{CommandOutcome, Step},
    policy::FailurePolicy,
    received::ReceivedMessage,
    recording::{self, FailureRecorder, Processed},
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
    sent: SentNotifications,
}

impl NotificationHandler {
    /// A handler that sends by `notifier` and records in `store`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, notifier: Arc<dyn Notifier>, policy: FailurePolicy) -> Self {
        let policy = Arc::new(policy);
        Self {
            recorder: FailureRecorder::new(store.clone(), policy.clone()),
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
            let failed = match self.unit_of_work(queue, received).await {
                Ok(outcome) => return Ok(outcome),
                Err(error) => self.recorder.unless_outage(error).await?,
            };
            if classify(&failed.failure) != FailureClass::Conflict {
                return self.recorder.record(queue, received, failed, false).await;
            }
            // Another process has locked the row and may be sending the mail.
            tokio::time::sleep(delays.next().unwrap_or_default()).await;
        }
    }

    async fn unit_of_work(
        &self,
        queue: QueueName,
        received: &ReceivedMessage,
    ) -> Result<CommandOutcome, UnitOfWorkError> {
        let mut uow = UnitOfWork::begin(&*self.store, queue).await?;
        let processed = self.process(&mut uow, received).await;
        uow.finish(processed).await
    }

    async fn process(
        &self,
        uow: &mut UnitOfWork,
        received: &ReceivedMessage,
    ) -> Result<CommandOutcome, UnitOfWorkError> {
        let checked = message_check::check_one(uow, received).await?;
        let step = match checked.begin(uow) {
            Remaining::Nothing(step) => step,
            Remaining::Handle(envelope) => {
                let step = self.send(envelope).await?;
                message_check::end(uow, envelope, &step);
                step
            }
        };
        let processed = Processed { received, generation: checked.generation, step };
        Ok(recording::record_one(uow, &self.policy, processed).await?)
    }

    /// Sends the mail, once in this process: a unit of work that is retried does not send it again.
    async fn send(&self, envelope: &Envelope) -> Result<Step, HandlingFailure> {
        let begin = Instant::now();
        let Content::OutOfStock(notification) = &envelope.content else {
            return Ok(Step::failed(DecodeError::unexpected(envelope.key.kind)));
        };
        let sent = match self.sent.result_of(&envelope.key) {
            Some(sent) => sent,
            None => match self.notifier.notify(&mail(envelope, notification)).await {
                Err(unavailable @ NotifierError::Unavailable(_)) => {
                    return Err(Failure::from(unavailable).into());
                }
                sent => self.sent.remember(&envelope.key, sent),
            },
        };
        Ok(match sent {
            Ok(()) => Step::Done(CommandOutcome::Handled),
            Err(error) => Step::Failed(error.into(), begin.elapsed()),
        })
    }
}

#[async_trait]
impl BatchHandler for NotificationHandler {
    async fn handle(&self, queue: QueueName, batch: &mut [&mut ReceivedMessage]) -> Result<(), HandleError> {
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

    fn remember(&self, key: &MessageKey, result: Result<(), NotifierError>) -> Result<(), NotifierError> {
        let mut results = self.lock();
        if results.len() >= MAX_UNCOMMITTED {
            results.clear();
        }
        results.insert(key.clone(), result.clone());
        result
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

fn mail(envelope: &Envelope, notification: &OutOfStockNotification) -> Notification {
    let OutOfStockNotification { orderid, sku, qty } = notification;
    let (orderid, sku) = (sanitize(orderid.as_str()), sanitize(sku.as_str()));
    Notification {
        event_id: envelope.key.message_id.clone(),
        subject: format!("Out of stock for {sku}"),
        text: format!(
            "Out of stock for {sku}\n\nOrder {orderid} waits for {qty} of it.\n\
             It gets them by itself as soon as stock comes in.\n"
        ),
    }
}

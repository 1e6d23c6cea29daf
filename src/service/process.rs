//! Handles commands in one transaction: check the inbox, load, run handlers, record failures, commit.

use std::sync::Arc;

use crate::ports::{
    error::StoreError,
    queue::QueueName,
    store::{LockMode, LockedRows, Store, WorkingSet},
};

use super::{
    contention::{Contention, LockedRow},
    decode_error::DecodeError,
    dispatch,
    effects::{Before, EffectLog},
    envelope::{Content, Envelope},
    failed_keys::FailedKeys,
    key_order,
    message_check::{self, CheckedMessage, MessageCheck, Remaining},
    outcome::{CommandOutcome, Settled, Step},
    policy::FailurePolicy,
    received::ReceivedMessage,
    recording::{self, Processed},
    reporting::{Phases, Reporter},
    unit_of_work::{UnitOfWork, UnitOfWorkError},
};

/// Handles commands, each call in one unit of work.
#[derive(Clone)]
pub(super) struct CommandProcessor {
    store: Arc<dyn Store>,
    policy: Arc<FailurePolicy>,
    reporter: Reporter,
    /// In a dry run, where the effects of each command are noted.
    effects: Option<Arc<EffectLog>>,
    contention: Arc<Contention>,
}

impl CommandProcessor {
    pub(super) fn new(store: Arc<dyn Store>, policy: Arc<FailurePolicy>, reporter: Reporter) -> Self {
        Self { store, policy, reporter, effects: None, contention: Arc::default() }
    }

    /// The same, and the effects of each command are noted.
    pub(super) fn with_effects(self, effects: Arc<EffectLog>) -> Self {
        Self { effects: Some(effects), ..self }
    }

    /// The same, and products that were locked lately are not awaited.
    pub(super) fn with_contention(self, contention: Arc<Contention>) -> Self {
        Self { contention, ..self }
    }

    /// One outcome for each message, in order.
    ///
    /// # Errors
    /// Nothing is committed, unless the error is about the commit.
    pub(super) async fn unit_of_work(
        &self,
        queue: QueueName,
        batch: &[&ReceivedMessage],
        locks: LockMode,
    ) -> Result<Vec<CommandOutcome>, UnitOfWorkError> {
        let mut phases = Phases::begin();
        let settled = self.committed(queue, batch, locks, &mut phases).await;
        self.reporter.unit_of_work(queue, batch, &phases, &settled);
        Ok(settled?.into_iter().map(|settled| settled.outcome).collect())
    }

    async fn committed(
        &self,
        queue: QueueName,
        batch: &[&ReceivedMessage],
        locks: LockMode,
        phases: &mut Phases,
    ) -> Result<Vec<Settled>, UnitOfWorkError> {
        let mut uow = UnitOfWork::begin(&*self.store, queue, locks).await?;
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
        let locked = uow.load(&self.working_set(&checked)).await?;
        phases.handle();
        let mut processed = Vec::with_capacity(batch.len());
        let mut failed_keys = FailedKeys::default();
        for (index, checked) in checked.into_iter().enumerate() {
            let step = match checked.begin(uow) {
                Remaining::Nothing(step) => step,
                Remaining::Handle(envelope) if failed_keys.hold(envelope, &checked.order) => {
                    uow.forget(&envelope.key);
                    key_order::must_wait()
                }
                Remaining::Handle(envelope) if needs(envelope, &locked) => {
                    uow.forget(&envelope.key);
                    Step::failed(StoreError::Locked("the product is locked".into()))
                }
                Remaining::Handle(envelope) => self.handle(uow, envelope).await?,
            };
            failed_keys.note(uow, index, &checked, &step, &self.policy);
            let CheckedMessage { received, generation, .. } = checked;
            processed.push(Processed { received, generation, step, overtaken_by: None });
        }
        failed_keys.mark_overtaken(&mut processed);
        phases.commit();
        Ok(recording::record_failures(uow, &self.policy, processed).await?)
    }

    fn working_set(&self, checked: &[CheckedMessage<'_>]) -> WorkingSet {
        let mut working_set = WorkingSet::default();
        for checked in checked {
            if let MessageCheck::New(envelope) = &checked.check
                && let Content::Command(command) = &envelope.content
            {
                working_set.cover(command);
                if self.contention.lately(checked.received) == Some(LockedRow::Product) {
                    working_set.locked_lately.cover(command);
                }
            }
        }
        working_set
    }

    async fn handle(&self, uow: &mut UnitOfWork, envelope: &Envelope) -> Result<Step, UnitOfWorkError> {
        let step = match &envelope.content {
            Content::Command(command) => {
                let before = self.effects.is_some().then(|| Before::of(command, uow));
                let timeout = self.policy.handler_timeout;
                let step = dispatch::run_handler(uow, command, envelope, timeout).await?;
                if let (Some(effects), Some(before), Step::Handled(took)) = (&self.effects, before, &step) {
                    effects.add(&envelope.key, command, &before, *took, uow);
                }
                step
            }
            Content::OutOfStock(_) => Step::failed(DecodeError::unexpected(envelope.key.kind)),
        };
        message_check::end(uow, envelope, &step);
        Ok(step)
    }
}

/// Whether a command needs a row that another session has locked.
fn needs(envelope: &Envelope, locked: &LockedRows) -> bool {
    matches!(&envelope.content, Content::Command(command) if locked.include(command))
}

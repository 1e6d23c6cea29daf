//! Reports to observers about messages.

use std::{sync::Arc, time::Duration};

use crate::{
    domain::RetryDecision,
    ports::{
        error::{NotifierError, StoreError},
        observer::{
            ErrorClass, FailureReport, MessageOutcome, MessageReport, Observer, Report, Source, Stopwatch,
            UnitOfWorkReport, UnitOfWorkResult,
        },
        queue::{QueueKind, QueueName},
        routing,
    },
};

use super::{
    failure::Failure,
    outcome::{AttemptRecord, CommandOutcome, Settled},
    received::ReceivedMessage,
    unit_of_work::UnitOfWorkError,
};

/// When the phases of a unit of work began.
pub(super) struct Phases {
    begin: Stopwatch,
    handle: Option<Stopwatch>,
    commit: Option<Stopwatch>,
}

impl Phases {
    /// The unit of work begins.
    pub(super) fn begin() -> Self {
        Self { begin: Stopwatch::start(), handle: None, commit: None }
    }

    /// Everything is loaded; the handlers begin.
    pub(super) fn handle(&mut self) {
        self.handle = Some(Stopwatch::start());
    }

    /// The handlers have ended.
    pub(super) fn commit(&mut self) {
        self.commit = Some(Stopwatch::start());
    }

    /// The lengths of the three phases.
    fn durations(&self, total: Duration) -> [Duration; 3] {
        let load = self.handle.map_or(total, |handle| handle.since(&self.begin));
        let before_commit = self.commit.map_or(total, |commit| commit.since(&self.begin));
        [load, before_commit.saturating_sub(load), total.saturating_sub(before_commit)]
    }
}

/// Reports units of work and failures.
#[derive(Clone)]
pub(super) struct Reporter {
    observer: Arc<dyn Observer>,
    queue_kind: QueueKind,
}

impl Reporter {
    /// Reports about messages of queues of this kind.
    pub(super) fn new(observer: Arc<dyn Observer>, queue_kind: QueueKind) -> Self {
        Self { observer, queue_kind }
    }

    /// Makes a report of another kind.
    pub(super) fn report(&self, report: &Report<'_>) {
        self.observer.observe(report);
    }

    /// Messages are going to be handled.
    pub(super) fn begin_spans(&self, batch: &mut [&mut ReceivedMessage]) {
        if self.observer.is_active() {
            for received in batch {
                received.begin_span(&*self.observer);
            }
        }
    }

    /// A unit of work has ended.
    pub(super) fn unit_of_work(
        &self,
        queue: QueueName,
        batch: &[&ReceivedMessage],
        phases: &Phases,
        result: &Result<Vec<Settled>, UnitOfWorkError>,
    ) {
        if !self.observer.is_active() {
            return;
        }
        let period = phases.begin.period();
        let [load, handle, commit] = phases.durations(period.duration);
        let settled = result.as_deref().unwrap_or_default();
        let mut messages = Vec::with_capacity(batch.len());
        for (index, received) in batch.iter().enumerate() {
            let mut message = message_report(received);
            // Nothing is settled if the unit of work failed.
            if let Some(settled) = settled.get(index) {
                settle(&mut message, settled);
            }
            messages.push(message);
        }
        self.observer.observe(&Report::UnitOfWork(&UnitOfWorkReport {
            queue,
            source: source(batch.first().copied()),
            begin: period.begin,
            load,
            handle,
            commit,
            result: match result {
                Ok(_) => UnitOfWorkResult::Committed,
                Err(UnitOfWorkError::Failed(failed)) => {
                    UnitOfWorkResult::Failed(error_class(&failed.failure))
                }
                Err(UnitOfWorkError::Missing(_)) => UnitOfWorkResult::Failed(ErrorClass::Store),
            },
            messages: &messages,
        }));
    }

    /// The failure of a message was recorded in a transaction of its own, or is reported to its sender.
    pub(super) fn failure(
        &self,
        queue: QueueName,
        received: &ReceivedMessage,
        begin: Stopwatch,
        settled: &Settled,
    ) {
        if !self.observer.is_active() {
            return;
        }
        let mut message = message_report(received);
        settle(&mut message, settled);
        let (queue_kind, source, period) = (self.queue_kind, source(Some(received)), begin.period());
        self.observer.observe(&Report::Failure(&FailureReport {
            queue,
            queue_kind,
            source,
            period,
            message,
        }));
    }
}

/// The sender of a message was answered without an outcome.
pub fn report_unanswered(observer: &dyn Observer, queue: QueueName, received: &ReceivedMessage) {
    if !observer.is_active() {
        return;
    }
    let mut message = message_report(received);
    message.outcome = Some(MessageOutcome::Unknown);
    message.error = Some(ErrorClass::Unavailable);
    let (source, period) = (source(Some(received)), Stopwatch::start().period());
    let report = FailureReport { queue, queue_kind: QueueKind::Main, source, period, message };
    observer.observe(&Report::Failure(&report));
}

/// The messages of a unit of work have one source.
fn source(received: Option<&ReceivedMessage>) -> Source {
    if received.is_some_and(|received| received.awaited) { Source::Http } else { Source::Queue }
}

/// A message without an outcome.
fn message_report(received: &ReceivedMessage) -> MessageReport<'_> {
    let envelope = received.decoded.as_ref().ok();
    MessageReport {
        message_type: routing::counted_type(&received.message.kind),
        message_id: received.message.message_id.as_deref(),
        correlation_id: envelope.map(|envelope| &*envelope.correlation_id),
        traceparent: received.message.traceparent.as_deref(),
        span: received.span(),
        body_bytes: received.message.body.len(),
        held_for: received.received.elapsed(),
        redelivered: received.redelivered,
        failed_message_id: received.message.retry.map(|mark| mark.failed_message_id),
        generation: 0,
        handler: None,
        outcome: None,
        attempts: 0,
        error: None,
        error_group: None,
    }
}

fn settle<'a>(message: &mut MessageReport<'a>, settled: &'a Settled) {
    let Settled { outcome, generation, handler, is_copy } = settled;
    message.generation = *generation;
    message.handler = *handler;
    message.outcome = Some(match outcome {
        // The failure is that of the other message.
        CommandOutcome::Recorded(..) if *is_copy => MessageOutcome::Duplicate,
        other => message_outcome(other),
    });
    if let CommandOutcome::Recorded(failure, _) | CommandOutcome::Reported(failure) = outcome {
        message.error = Some(error_class(failure));
    }
    if let CommandOutcome::Recorded(_, AttemptRecord { attempts, error_group, .. }) = outcome {
        message.attempts = *attempts;
        message.error_group = Some(error_group);
    }
}

fn message_outcome(outcome: &CommandOutcome) -> MessageOutcome {
    match outcome {
        CommandOutcome::Handled => MessageOutcome::Handled,
        CommandOutcome::Duplicate => MessageOutcome::Duplicate,
        CommandOutcome::Recorded(_, record) => match record.decision {
            RetryDecision::Retry(_) => MessageOutcome::Retrying,
            RetryDecision::Postpone(_) => MessageOutcome::Postponed,
            RetryDecision::Wait => MessageOutcome::Waiting,
            RetryDecision::Dead(reason) => MessageOutcome::Dead(reason),
        },
        CommandOutcome::Reported(_) => MessageOutcome::Rejected,
        CommandOutcome::Unknown => MessageOutcome::Unknown,
    }
}

fn error_class(failure: &Failure) -> ErrorClass {
    match failure {
        Failure::DecodeError(_) | Failure::Store(StoreError::InvalidData(_)) => ErrorClass::InvalidMessage,
        Failure::BodyMismatch => ErrorClass::MessageIdConflict,
        Failure::Rejected(_) => ErrorClass::Rejected,
        Failure::Store(StoreError::Conflict(_) | StoreError::AlreadyExists(_)) => ErrorClass::Conflict,
        Failure::Store(StoreError::Locked(_)) => ErrorClass::Locked,
        Failure::Store(StoreError::Timeout(_) | StoreError::CommitUnknown(_)) | Failure::TimedOut(_) => {
            ErrorClass::Timeout
        }
        Failure::Panicked(_) => ErrorClass::Panic,
        Failure::Store(StoreError::Failed(_)) => ErrorClass::Store,
        Failure::Store(StoreError::Unavailable(_)) | Failure::Notification(NotifierError::Unavailable(_)) => {
            ErrorClass::Unavailable
        }
        Failure::Notification(NotifierError::Deferred(_) | NotifierError::Rejected(_)) => {
            ErrorClass::Notification
        }
        Failure::CrashLoop(_) => ErrorClass::CrashLoop,
        Failure::Waiting => ErrorClass::Waiting,
        Failure::DeadLetteredByBroker(_) => ErrorClass::DeadLettered,
    }
}

//! A failed message while it is tried.

use std::time::Duration;

use crate::{
    domain::{Command, Reason, RetryDecision, SkipReason, Status},
    ports::{
        dry_run::{RetriableMessage, RetryDelivery},
        error::{StoreError, error_text},
        queue::QueueName,
    },
    service::{
        decode::Limits, effects::Effects, envelope::Content, failure::Failure, outcome::CommandOutcome,
        received::ReceivedMessage,
    },
};

use super::{
    options::TrialOptions,
    report::{MailToSend, MessageSummary, TrialReport, Verdict},
};

/// A failed message, and what is known about a retry of it.
pub(super) struct TriedMessage {
    pub(super) queue: QueueName,
    pub(super) received: ReceivedMessage,
    stored: RetriableMessage,
    conclusion: Option<Conclusion>,
    pub(super) effects: Effects,
    pub(super) mail: Option<MailToSend>,
    caveats: Vec<String>,
}

struct Conclusion {
    would: Verdict,
    next: Option<&'static str>,
    error: Option<String>,
}

impl TriedMessage {
    /// A message as a retry would deliver it. One that a retry skips has its conclusion.
    pub(super) fn new(
        stored: RetriableMessage,
        delivery: &dyn RetryDelivery,
        limits: Limits,
        options: TrialOptions,
    ) -> Result<Self, StoreError> {
        let queue = QueueName::ALL.into_iter().find(|queue| queue.as_str() == stored.copy.queue);
        let queue = queue.ok_or_else(|| {
            StoreError::Failed(format!("message {} has an unknown queue", stored.failed.id).into())
        })?;
        let mut message = delivery.delivered(&stored.copy);
        if stored.failed.status != Status::Retrying {
            // Only a retry makes it retrying: until then its mark would be outdated.
            message.retry = None;
        }
        let received = ReceivedMessage::read(queue, message, false, limits);
        let (effects, mail, caveats) = (Effects::default(), None, Vec::new());
        let mut tried = Self { queue, received, stored, conclusion: None, effects, mail, caveats };
        tried.check(options);
        Ok(tried)
    }

    pub(super) fn id(&self) -> i64 {
        self.stored.failed.id
    }

    /// Whether its handler must be run.
    pub(super) fn is_open(&self) -> bool {
        self.conclusion.is_none()
    }

    pub(super) fn would_succeed(&self) -> bool {
        self.would(Verdict::Succeed)
    }

    pub(super) fn is_busy(&self) -> bool {
        self.would(Verdict::Busy)
    }

    fn would(&self, verdict: Verdict) -> bool {
        self.conclusion.as_ref().is_some_and(|conclusion| conclusion.would == verdict)
    }

    /// The first dead message with its line or batch that would be overtaken.
    pub(super) fn overtakes(&self) -> Option<i64> {
        self.stored.overtakes.filter(|_| self.would_succeed())
    }

    pub(super) fn warn(&mut self, caveat: impl Into<String>) {
        self.caveats.push(caveat.into());
    }

    pub(super) fn conclude(
        &mut self,
        would: Verdict,
        next: Option<&'static str>,
        error: impl Into<Option<String>>,
    ) {
        self.conclusion = Some(Conclusion { would, next, error: error.into() });
    }

    /// What an operator's retry decides before the message is published.
    fn check(&mut self, options: TrialOptions) {
        let is_crash_loop = self.stored.failed.status == Status::Dead(Reason::CrashLoop);
        if is_crash_loop && !options.even_if_it_crashes {
            let error =
                "its worker crashed repeatedly; --even-if-it-crashes tries it in the process of this command";
            return self.conclude(Verdict::Skip, None, error.to_owned());
        }
        match self.stored.failed.clone().apply(&options.action()) {
            Ok(_) => {}
            Err(SkipReason::RetryScheduled) => self.warn("a retry of it is on its way to the queue already"),
            Err(reason @ SkipReason::AlreadyHandled) => {
                self.conclude(Verdict::Repeat, None, reason.to_string());
            }
            Err(SkipReason::Waiting) => self.wait(),
            Err(SkipReason::Overtaken) => {
                let by = self.stored.overtaken_by.as_deref().unwrap_or_default();
                let error = format!(
                    "overtaken by {by}, a later command for the same line or batch; --overtaken tries it nevertheless"
                );
                self.conclude(Verdict::Skip, None, error);
            }
            Err(reason) => self.conclude(Verdict::Skip, None, reason.to_string()),
        }
    }

    fn wait(&mut self) {
        let error = match self.stored.behind {
            Some(id) => format!("waits for message {id}, an earlier one for the same line or batch"),
            None => Failure::Waiting.to_string(),
        };
        self.conclude(Verdict::Wait, Some("waiting"), error);
    }

    /// Draws the conclusion from the outcome of its handling. `handler_limit` is shorter than the limit of a worker if a dry
    /// run has less time.
    pub(super) fn finish(&mut self, outcome: &CommandOutcome, handler_limit: Option<Duration>) {
        match outcome {
            CommandOutcome::Handled => self.conclude(Verdict::Succeed, None, None),
            CommandOutcome::Duplicate => {
                self.conclude(Verdict::Repeat, None, SkipReason::AlreadyHandled.to_string());
            }
            CommandOutcome::Recorded(Failure::TimedOut(limit), _) if Some(*limit) == handler_limit => {
                let limit = humantime::format_duration(*limit);
                self.conclude(Verdict::Busy, None, format!("takes longer than a dry run may take ({limit})"));
            }
            CommandOutcome::Recorded(failure, record) => match &record.decision {
                RetryDecision::Postpone(_) => self.busy(failure),
                RetryDecision::Wait => self.wait(),
                RetryDecision::Retry(_) => {
                    self.conclude(Verdict::Fail, Some("retrying"), error_text(failure));
                }
                RetryDecision::Dead(reason) => {
                    self.conclude(Verdict::Fail, Some(reason.as_str()), error_text(failure));
                }
            },
            CommandOutcome::Reported(failure) => self.conclude(Verdict::Fail, None, error_text(failure)),
            CommandOutcome::Unknown => self.conclude(Verdict::Busy, None, None),
        }
    }

    /// Another session prevents its handling.
    pub(super) fn busy(&mut self, failure: &Failure) {
        self.conclude(Verdict::Busy, None, error_text(failure));
    }

    /// The report; a message without a conclusion was not tried, because `unfinished`.
    pub(super) fn report(self, as_of: time::OffsetDateTime, unfinished: &str) -> TrialReport {
        let message = self.summary();
        let conclusion = self.conclusion.unwrap_or_else(|| Conclusion {
            would: Verdict::Busy,
            next: None,
            error: Some(unfinished.to_owned()),
        });
        let Effects { lines, batches, events, took } = self.effects;
        TrialReport {
            id: self.stored.failed.id,
            as_of,
            would: conclusion.would,
            next: conclusion.next,
            error: conclusion.error,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            lines,
            batches,
            events,
            mail: self.mail,
            caveats: self.caveats,
            message,
        }
    }

    fn summary(&self) -> MessageSummary {
        let subject = self.received.decoded.as_ref().ok().map(|envelope| match &envelope.content {
            Content::Command(Command::CreateBatch(command)) => command.reference.to_string(),
            Content::Command(Command::ChangeBatchQuantity(command)) => command.reference.to_string(),
            Content::Command(Command::Allocate(command)) => command.orderid.to_string(),
            Content::Command(Command::Deallocate(command)) => command.orderid.to_string(),
            Content::OutOfStock(notification) => notification.orderid.to_string(),
        });
        MessageSummary {
            kind: self.stored.copy.kind.clone(),
            subject: subject.or_else(|| self.stored.copy.message_id.clone()),
            status: self.stored.failed.status,
            error: self.stored.error.clone(),
        }
    }
}

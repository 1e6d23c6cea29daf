//! A message while this process has it.

use std::sync::Arc;

use crate::{
    domain::{FailedMessageKey, MessageKey, OrderingKey},
    ports::{
        observer::{Observer, SpanDecision, Stopwatch},
        queue::{Message, QueueName},
        text::{replace_nul, sanitize},
        trace::TraceContext,
    },
};

use super::{
    decode::{Limits, body_hash, decode},
    decode_error::DecodeError,
    envelope::Envelope,
    failure::Failure,
    outcome::CommandOutcome,
};

/// A message with what this process knows about it.
#[derive(Clone, Debug)]
pub struct ReceivedMessage {
    /// The message as it was delivered.
    pub message: Message,
    /// Its content.
    pub decoded: Result<Envelope, DecodeError>,
    /// Whether it was delivered before: that worker may have crashed.
    pub redelivered: bool,
    /// Whether its sender waits for the answer: a failure is then reported, and not recorded for a retry.
    pub awaited: bool,
    /// How often it was started without an end before this process received it, once that was looked up.
    pub(super) starts: Option<u32>,
    /// Whether this process has recorded its own start. A message that is started again during an outage is recorded once.
    pub(super) start_recorded: bool,
    /// When this process received it.
    pub(super) received: Stopwatch,
    /// Whether its span is recorded, once that was decided.
    span: Option<SpanDecision>,
    outcome: Option<CommandOutcome>,
}

impl ReceivedMessage {
    /// Decodes a message from a queue.
    #[must_use]
    pub fn read(queue: QueueName, message: Message, redelivered: bool, limits: Limits) -> Self {
        Self {
            decoded: decode(queue, &message, limits),
            message,
            redelivered,
            awaited: false,
            starts: None,
            start_recorded: false,
            received: Stopwatch::start(),
            span: None,
            outcome: None,
        }
    }

    /// Decodes a message whose sender waits for the answer.
    #[must_use]
    pub fn read_awaited(queue: QueueName, message: Message, limits: Limits) -> Self {
        Self { awaited: true, ..Self::read(queue, message, false, limits) }
    }

    /// The outcome, if the message has one. It is returned once.
    #[must_use]
    pub fn take_outcome(&mut self) -> Option<CommandOutcome> {
        self.outcome.take()
    }

    /// Sets the outcome: what it says is committed, or reported to the sender.
    pub(super) fn finish(&mut self, outcome: CommandOutcome) {
        self.outcome = Some(outcome);
    }

    /// Begins the span of the message: if it is recorded, what follows from the message continues from it. A message has one span
    /// in this process, however often it is handled. A retry begins another trace: days may have passed.
    pub(super) fn begin_span(&mut self, observer: &dyn Observer) {
        let sender = self.message.traceparent.as_deref().and_then(TraceContext::parse);
        // An HTTP request without a context was not recorded.
        if self.span.is_some() || self.awaited && sender.is_none() {
            return;
        }
        let is_retry = self.message.retry.is_some();
        let span = observer.begin_span(sender, is_retry);
        self.span = Some(span);
        if let (Ok(envelope), Some(context)) = (&mut self.decoded, span.recorded()) {
            envelope.traceparent = Some(context.to_string().into());
            if is_retry {
                envelope.tracestate = None;
            }
        }
    }

    /// Whether its span is recorded.
    pub(super) fn span(&self) -> SpanDecision {
        self.span.unwrap_or_default()
    }

    /// The id of the trace in which a failure of the message is recorded, in hexadecimal.
    #[must_use]
    pub fn trace_id(&self) -> Option<String> {
        self.span().of_failure().map(|span| format!("{:032x}", span.trace_id))
    }

    /// The key by which a duplicate is recognised; none if the message cannot be decoded.
    pub(super) fn message_key(&self) -> Option<&MessageKey> {
        self.decoded.as_ref().ok().map(|envelope| &envelope.key)
    }

    /// Whether a failure of the message is recorded. One that its sender waits for is reported to the sender instead, unless
    /// the command has to wait: then it is accepted.
    pub(super) fn is_recorded(&self, failure: &Failure) -> bool {
        !self.awaited || matches!(failure, Failure::Waiting)
    }

    /// Messages with the same partition key are handled by one partition; none if it cannot be decoded.
    pub(super) fn partition_key(&self) -> Option<&str> {
        self.decoded.as_ref().ok().map(|envelope| envelope.content.partition_key())
    }

    /// The line or the batch that it is about; none if it is no command that can be decoded.
    pub(super) fn ordering_key(&self) -> Option<OrderingKey> {
        self.decoded.as_ref().ok().and_then(|envelope| envelope.content.ordering_key())
    }

    /// The id under which its starts are recorded; none if no crash can be attributed to it: it was not delivered before, or
    /// cannot be decoded.
    pub(super) fn suspect_id(&self) -> Option<Arc<str>> {
        self.message_key().filter(|_| self.redelivered).map(|key| key.message_id.clone())
    }

    pub(super) fn failed_message_key(&self) -> FailedMessageKey {
        let kind = sanitize(&self.message.kind);
        match self.message_key() {
            Some(MessageKey { message_id, body_hash, .. }) => {
                FailedMessageKey { message_id: Some(message_id.clone()), kind, body_hash: *body_hash }
            }
            None => FailedMessageKey {
                message_id: self.message.message_id.as_deref().map(|id| replace_nul(id).into()),
                kind,
                body_hash: body_hash(&self.message.body),
            },
        }
    }

    /// Whether handling `other` in the same unit of work has no effect beyond that of handling this.
    pub(super) fn is_copy_of(&self, other: &Self) -> bool {
        self.message_key() == other.message_key() && self.message.retry == other.message.retry
    }
}

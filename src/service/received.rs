//! A message on its way through the bus.

use std::sync::OnceLock;

use crate::{
    domain::{FailedMessageKey, MessageKey},
    ports::{queue::Message, text::sanitize},
};

use super::{
    decode::{DecodeError, Envelope, Limits, body_hash, decode, replace_nul},
    failure::Failure,
};

/// A message, read.
#[derive(Clone, Debug)]
pub struct ReceivedMessage {
    /// As it came.
    pub message: Message,
    /// What it asks for.
    pub decoded: Result<Envelope, DecodeError>,
    /// Whether somebody may have begun with it before.
    pub redelivered: bool,
    /// Whether its sender waits for the answer: a failure is told to them then, and not kept for another attempt.
    pub awaited: bool,
    /// How often it was started without an end before this process had it.
    pub(super) starts_before: OnceLock<u32>,
    /// Set once this process has counted its own start: while the store is away it begins again and again, and that is
    /// no crash.
    pub(super) counted: OnceLock<()>,
    /// What became of the mail it asked for, once this process has sent it.
    pub(super) notified: OnceLock<Result<(), Failure>>,
}

impl ReceivedMessage {
    /// Reads a message.
    #[must_use]
    pub fn read(message: Message, redelivered: bool, limits: Limits) -> Self {
        Self {
            decoded: decode(&message, limits),
            message,
            redelivered,
            awaited: false,
            starts_before: OnceLock::new(),
            counted: OnceLock::new(),
            notified: OnceLock::new(),
        }
    }

    /// Reads a message whose sender waits for the answer.
    #[must_use]
    pub fn read_awaited(message: Message, limits: Limits) -> Self {
        Self { awaited: true, ..Self::read(message, false, limits) }
    }

    /// By what its repeats are recognised; none if it cannot be read.
    pub(super) fn message_key(&self) -> Option<&MessageKey> {
        self.decoded.as_ref().ok().map(|envelope| &envelope.key)
    }

    pub(super) fn unfinished_starts(&self) -> u32 {
        self.starts_before.get().copied().unwrap_or(0)
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

    /// Whether handling `other` in the same unit of work could do nothing that handling this does not.
    pub(super) fn is_copy_of(&self, other: &Self) -> bool {
        self.message_key() == other.message_key() && self.message.retry == other.message.retry
    }
}

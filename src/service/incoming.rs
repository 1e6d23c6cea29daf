//! A message on its way through the bus.

use std::sync::OnceLock;

use crate::ports::{ledger::FailureKey, queue::Message, store::Receipt};

use super::{
    decode::{Envelope, Limits, Undecodable, decode, fingerprint, keepable},
    unit_of_work::text,
    verdict::Failure,
};

/// A message, read.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// As it came.
    pub message: Message,
    /// What it asks for.
    pub decoded: Result<Envelope, Undecodable>,
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

/// Messages that are handled together.
pub(super) type Batch<'a> = [&'a Incoming];

impl Incoming {
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
    pub(super) fn receipt(&self) -> Option<&Receipt> {
        self.decoded.as_ref().ok().map(|envelope| &envelope.receipt)
    }

    pub(super) fn starts(&self) -> u32 {
        self.starts_before.get().copied().unwrap_or(0)
    }

    pub(super) fn key(&self) -> FailureKey {
        let kind = text(&self.message.kind);
        match self.receipt() {
            Some(Receipt { message_id, fingerprint, .. }) => {
                FailureKey { message_id: Some(message_id.clone()), kind, fingerprint: *fingerprint }
            }
            None => FailureKey {
                message_id: self.message.message_id.as_deref().map(|id| keepable(id).into()),
                kind,
                fingerprint: fingerprint(&self.message.body),
            },
        }
    }

    /// Whether handling `other` in the same unit of work could do nothing that handling this does not.
    pub(super) fn is_copy_of(&self, other: &Self) -> bool {
        self.receipt() == other.receipt() && self.message.retry == other.message.retry
    }
}

//! Divides `limits.memory` among the parts of the program that hold message bodies.
//!
//! A part may hold a body more than once: as it was received, in a statement, in frames. The shares allow for these copies,
//! so that their sum stays below the limit.

use crate::{entrypoints::prefetch::PrefetchLimits, ports::queue::QueueKind};

/// The shares of `limits.memory`, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct MemoryShares {
    limit: usize,
}

impl MemoryShares {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit }
    }

    /// Bodies of HTTP requests.
    pub(super) fn requests(self) -> usize {
        self.limit / 8
    }

    /// Retries that the relay publishes together.
    pub(super) fn retries(self) -> usize {
        self.limit / 16
    }

    /// At most `messages` unacknowledged deliveries of a queue.
    pub(super) fn deliveries(self, queue_kind: QueueKind, messages: u16) -> PrefetchLimits {
        match queue_kind {
            QueueKind::Main => PrefetchLimits { messages, bytes: self.limit / 8 },
            QueueKind::DeadLetter => PrefetchLimits { messages, bytes: self.limit / 32 },
        }
    }
}

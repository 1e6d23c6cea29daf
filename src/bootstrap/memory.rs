//! Divides `limits.memory` among the parts of the program that hold message bodies.
//!
//! A part may hold a body more than once: as it was received, in a statement, in frames. The shares allow for these copies,
//! so that their sum stays below the limit.

use crate::{entrypoints::prefetch::PrefetchLimits, ports::queue::QueueKind};

/// Deliveries while the size of the messages is unknown.
const INITIAL_PREFETCH: u16 = 16;

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

    /// Unacknowledged deliveries of a queue, of which small ones may be `max`. Dead letters may be of any size.
    pub(super) fn deliveries(self, queue_kind: QueueKind, max: u16) -> PrefetchLimits {
        match queue_kind {
            QueueKind::Main => PrefetchLimits { initial: INITIAL_PREFETCH, max, bytes: self.limit / 8 },
            QueueKind::DeadLetter => PrefetchLimits { initial: 1, max, bytes: self.limit / 32 },
        }
    }
}

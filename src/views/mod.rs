//! The read side: one question, one query, one struct. Nothing here writes.

mod availability;
mod dead_letters;
mod orders;
mod outbox;
mod outcome;

use sqlx::PgPool;

pub use availability::{Availability, AvailableBatch};
pub use dead_letters::{Action, Attempt, DeadLetter, DeadLetterDetail, FailureCounts, Group};
pub use orders::{Allocation, Order, OrderLine};
pub use outbox::{OutboxDepth, UnpublishedEvent};
pub use outcome::Outcome;

/// Answers questions from a database.
#[derive(Clone)]
pub struct Views {
    pool: PgPool,
    /// Stands before the names of queues.
    namespace: String,
}

impl Views {
    /// Views over a pool, of one namespace.
    #[must_use]
    pub fn new(pool: PgPool, namespace: String) -> Self {
        Self { pool, namespace }
    }
}

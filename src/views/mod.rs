//! The read side: one question, one query, one struct. Nothing here writes.

mod dead_letters;
mod outbox;
mod outcome;

use sqlx::PgPool;

pub use dead_letters::{Action, Attempt, DeadLetter, DeadLetterDetail, FailureCounts, Group};
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

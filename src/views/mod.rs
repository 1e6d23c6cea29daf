//! The read side: one question, one query, one struct. Nothing here writes.

mod operations;

use sqlx::PgPool;

pub use operations::{OutboxDepth, Outcome};

/// Answers questions from a database.
#[derive(Clone)]
pub struct Views {
    pool: PgPool,
}

impl Views {
    /// Views over a pool.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }
}

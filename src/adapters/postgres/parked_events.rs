//! Parked events: rows of the outbox that the broker rejected.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::PgPool;

use crate::{
    pg::{PgConfig, with_timeout},
    ports::{error::StoreError, outbox::ParkedEvents},
};

use super::commit_signal::CHANNEL;

/// The parked events of a database.
pub struct PgParkedEvents {
    pool: PgPool,
    timeout: Duration,
}

impl PgParkedEvents {
    /// The parked events that `pool` reaches.
    #[must_use]
    pub fn new(pool: PgPool, config: &PgConfig) -> Self {
        Self { pool, timeout: config.timeout }
    }
}

#[async_trait]
impl ParkedEvents for PgParkedEvents {
    async fn unpark(&self, ids: Option<&[i64]>) -> Result<usize, StoreError> {
        let update = sqlx::query!(
            "with again as (
                 update outbox set refused = null, refused_at = null
                 where refused is not null and ($1::bigint[] is null or id = any($1)) returning id
             )
             select id from again, pg_notify($2, '')",
            ids,
            CHANNEL,
        );
        Ok(with_timeout(self.timeout, update.fetch_all(&self.pool)).await?.len())
    }
}

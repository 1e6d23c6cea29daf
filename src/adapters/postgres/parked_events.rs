//! Parked events: rows of the outbox that the broker rejected.

use std::time::Duration;

use crate::{
    pg::{PgConfig, Pool, PooledSession},
    ports::{error::StoreError, outbox::ParkedEvents},
};
use async_trait::async_trait;

use super::commit_signal::CHANNEL;

/// The parked events of a database.
pub struct PgParkedEvents {
    pool: Pool,
    timeout: Duration,
}

impl PgParkedEvents {
    /// The parked events that `pool` reaches.
    #[must_use]
    pub fn new(pool: impl Into<Pool>, config: &PgConfig) -> Self {
        Self { pool: pool.into(), timeout: config.timeout }
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
        let mut session = PooledSession::open(&self.pool, self.timeout).await?;
        let unparked = session.run(async |connection| update.fetch_all(connection).await).await?;
        session.finish().await?;
        Ok(unparked.len())
    }
}

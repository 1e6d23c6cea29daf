//! Reports of processes.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;

use crate::{
    pg::{Pool, PooledSession},
    ports::{
        error::StoreError,
        processes::{Heartbeat, ProcessRegistry},
    },
};

/// The table of processes.
pub struct PgProcessRegistry {
    pool: Pool,
    timeout: Duration,
}

impl PgProcessRegistry {
    /// The table in the database that `pool` reaches. A report takes no longer than `timeout`.
    #[must_use]
    pub fn new(pool: Pool, timeout: Duration) -> Self {
        Self { pool, timeout }
    }
}

#[async_trait]
impl ProcessRegistry for PgProcessRegistry {
    /// The times are those of the server.
    async fn record(&self, heartbeat: &Heartbeat) -> Result<(), StoreError> {
        let upsert = sqlx::query!(
            "insert into processes (id, name, version, roles, started_at, seen_at, stopped_at, state)
             values ($1, $2, $3, $4, now() - make_interval(secs => $5), now(), case when $6 then now() end, $7::text::jsonb)
             on conflict (id) do update
             set seen_at = excluded.seen_at, stopped_at = excluded.stopped_at, state = excluded.state",
            heartbeat.id,
            heartbeat.name,
            heartbeat.version,
            &heartbeat.roles,
            heartbeat.uptime.as_secs_f64(),
            heartbeat.is_stopped,
            json!(heartbeat.state).to_string(),
        );
        let mut session = PooledSession::open(&self.pool, self.timeout).await?;
        session.run(async |connection| upsert.execute(connection).await).await?;
        session.finish().await
    }
}

//! Leadership: the leader holds an advisory lock, and uses the outbox only on the session that holds it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::{Connection as _, PgConnection};
use tokio::sync::Mutex;
use tracing::{debug, warn};

use crate::{
    domain::OutboxRow,
    pg::{PgConfig, with_timeout},
    ports::{
        error::{Cause, StoreError, error_text},
        failed_messages::DueRetry,
        outbox::{EventFeed, LeaderSession, Outbox, PendingWork, Retention, RetryFeed, Upkeep},
    },
};

use super::{
    commit_signal::{self, CHANNEL, CommitSignal},
    failed_messages, installation,
    low_water_mark::LowWaterMark,
    outbox, purge,
};

/// The advisory lock of the leader: "relay" in ASCII.
const LEADER_LOCK: i64 = 0x72_65_6c_61_79;
/// A leader whose session was silent for longer, several poll intervals, is unresponsive.
const UNRESPONSIVE_AFTER: Duration = Duration::from_secs(3);

/// The outbox of a database, as one relay uses it.
pub struct PgOutbox {
    config: PgConfig,
    namespace: String,
    /// Kept between two tries, so that a standby does not connect each time.
    standby: Mutex<Option<PgConnection>>,
    commit_signal: Arc<CommitSignal>,
}

impl PgOutbox {
    /// An outbox that connects when it is first used. Its database must belong to `namespace`.
    #[must_use]
    pub fn new(config: PgConfig, namespace: &str, commit_signal: Arc<CommitSignal>) -> Self {
        Self { config, namespace: namespace.to_owned(), standby: Mutex::new(None), commit_signal }
    }

    async fn connection(&self, standby: &mut Option<PgConnection>) -> Result<PgConnection, StoreError> {
        match standby.take() {
            Some(connection) => Ok(connection),
            None => with_timeout(self.config.timeout, self.config.session().connect()).await,
        }
    }

    /// Receives the announcements of other processes while it is polled: they wake the relay up.
    pub async fn listen(&self) {
        commit_signal::listen(self.config.session().driver_options(), &self.commit_signal).await;
    }
}

#[async_trait]
impl Outbox for PgOutbox {
    async fn try_lead(&self) -> Result<Option<Box<dyn LeaderSession>>, StoreError> {
        let timeout = self.config.timeout;
        let mut standby = self.standby.lock().await;
        let mut connection = self.connection(&mut standby).await?;
        if with_timeout(timeout, try_lock(&mut connection)).await? {
            // Events that are published and cannot be removed would be published again and again.
            with_timeout(timeout, write(&mut connection)).await?;
            let state = with_timeout(timeout, installation::state(&mut connection)).await?;
            // The namespace may have been renamed while this process was running.
            state
                .check_namespace(&self.namespace)
                .map_err(|error| StoreError::Unavailable(Cause::new(error)))?;
            let low_water_mark = LowWaterMark::default();
            return Ok(Some(Box::new(PgLeaderSession { connection, timeout, low_water_mark })));
        }
        if with_timeout(timeout, terminate_unresponsive_leader(&mut connection)).await? {
            warn!("terminated the session of an unresponsive leader");
        }
        *standby = Some(connection);
        Ok(None)
    }

    async fn probe(&self) -> Result<(), StoreError> {
        let timeout = self.config.timeout;
        let mut standby = self.standby.lock().await;
        let mut connection = self.connection(&mut standby).await?;
        with_timeout(timeout, write(&mut connection)).await?;
        *standby = Some(connection);
        Ok(())
    }

    async fn wait_for_wakeup(&self) {
        self.commit_signal.notified().await;
    }
}

/// Tries to take the lock of the leader, which the session then holds until it ends.
pub(super) async fn try_lock(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(r#"select pg_try_advisory_lock($1) as "locked!""#, LEADER_LOCK)
        .fetch_one(connection)
        .await
}

/// Writes a row: only a server that takes writes can do it.
async fn write(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("update relay_state set unroutable = unroutable").execute(connection).await?;
    Ok(())
}

/// Terminates the leader's session if its process no longer uses it, because it is stopped or its machine is
/// unreachable. A process that continues later can remove nothing from the outbox.
async fn terminate_unresponsive_leader(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let terminated = sqlx::query_scalar!(
        r#"select pg_terminate_backend(held.pid) as "ended!"
           from pg_locks held join pg_stat_activity session using (pid)
           where held.locktype = 'advisory' and held.granted and held.objsubid = 1
             and held.database = (select oid from pg_database where datname = current_database())
             and (held.classid::bigint << 32 | held.objid::bigint) = $1
             and (session.state <> 'active' and session.state_change < now() - make_interval(secs => $2)
                  or session.wait_event = 'ClientWrite' and session.query_start < now() - make_interval(secs => $2))"#,
        LEADER_LOCK,
        UNRESPONSIVE_AFTER.as_secs_f64(),
    );
    Ok(terminated.fetch_optional(connection).await?.unwrap_or(false))
}

struct PgLeaderSession {
    connection: PgConnection,
    timeout: Duration,
    low_water_mark: LowWaterMark,
}

#[async_trait]
impl LeaderSession for PgLeaderSession {
    async fn release(mut self: Box<Self>) {
        let unlock =
            sqlx::query("select pg_advisory_unlock($1), pg_notify($2, '')").bind(LEADER_LOCK).bind(CHANNEL);
        if with_timeout(self.timeout, unlock.execute(&mut self.connection)).await.is_ok() {
            let _ = self.connection.close().await;
        }
    }
}

#[async_trait]
impl EventFeed for PgLeaderSession {
    async fn pending(&mut self) -> Result<PendingWork, StoreError> {
        let pending = outbox::pending(&mut self.connection, self.low_water_mark.id());
        let (pending, last_id) = with_timeout(self.timeout, pending).await?;
        self.low_water_mark.must_be_below(last_id + 1);
        Ok(pending)
    }

    async fn unpublished(&mut self, at_most: u32, except: &[String]) -> Result<Vec<OutboxRow>, StoreError> {
        let advance = self.low_water_mark.advance(&mut self.connection);
        // Without this permission the mark stays where it is; if the session is lost, the next statement fails.
        if let Err(error) = with_timeout(self.timeout, advance).await {
            debug!(error = error_text(&error), "low-water mark not advanced");
        }
        let above = self.low_water_mark.id();
        let rows = outbox::unpublished(&mut self.connection, above, at_most, except);
        with_timeout(self.timeout, rows).await
    }

    async fn remove(&mut self, ids: &[i64], unroutable: i64) -> Result<(), StoreError> {
        with_timeout(self.timeout, outbox::remove(&mut self.connection, ids, unroutable)).await
    }

    async fn record_nacked(&mut self, names: &[String]) -> Result<(), StoreError> {
        with_timeout(self.timeout, outbox::record_nacked(&mut self.connection, names)).await
    }

    async fn park(&mut self, id: i64, reason: &str) -> Result<(), StoreError> {
        with_timeout(self.timeout, outbox::park(&mut self.connection, id, reason)).await
    }
}

#[async_trait]
impl RetryFeed for PgLeaderSession {
    async fn due(&mut self, at_most: u32, at_most_bytes: usize) -> Result<Vec<DueRetry>, StoreError> {
        with_timeout(self.timeout, failed_messages::due(&mut self.connection, at_most, at_most_bytes)).await
    }

    async fn published(&mut self, retries: &[&DueRetry]) -> Result<(), StoreError> {
        with_timeout(self.timeout, failed_messages::published(&mut self.connection, retries)).await
    }

    async fn defer(&mut self, retries: &[&DueRetry], reason: &str) -> Result<(), StoreError> {
        with_timeout(self.timeout, failed_messages::defer(&mut self.connection, retries, reason)).await
    }

    async fn reject(&mut self, retry: &DueRetry, reason: &str) -> Result<(), StoreError> {
        with_timeout(self.timeout, failed_messages::reject(&mut self.connection, retry, reason)).await
    }
}

#[async_trait]
impl Upkeep for PgLeaderSession {
    async fn purge(&mut self, retention: Retention) -> Result<bool, StoreError> {
        let oldest = with_timeout(self.timeout, outbox::oldest_id(&mut self.connection)).await?;
        if let Some(oldest) = oldest {
            self.low_water_mark.must_be_below(oldest);
        }
        with_timeout(self.timeout, purge::purge(&mut self.connection, retention)).await
    }
}

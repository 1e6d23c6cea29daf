//! The outbox of a relay: the leader uses it only on the session that leads.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::{Connection as _, PgConnection};
use tokio::sync::Mutex;
use tracing::{debug, info, warn};

use crate::{
    domain::OutboxRow,
    pg::{PgConfig, with_timeout},
    ports::{
        error::{Cause, StoreError, error_text},
        failed_messages::DueRetry,
        outbox::{EventFeed, LeaderSession, Outbox, PendingWork, Purge, Retention, RetryFeed, Upkeep},
    },
};

use super::{
    commit_signal::{self, CommitSignal},
    failed_messages, installation,
    leadership::{self, Leader},
    low_water_mark::LowWaterMark,
    outbox, purge,
};

/// The outbox of a database, as one relay uses it.
pub struct PgOutbox {
    config: PgConfig,
    namespace: String,
    /// Whether published events are recorded.
    record_published: bool,
    /// Kept between two tries, so that a standby does not connect each time.
    standby: Mutex<Option<PgConnection>>,
    /// The leader that the log has named last.
    logged: Mutex<Option<Leader>>,
    commit_signal: Arc<CommitSignal>,
}

impl PgOutbox {
    /// An outbox that connects when it is first used. Its database must belong to `namespace`.
    #[must_use]
    pub fn new(config: PgConfig, namespace: &str, commit_signal: Arc<CommitSignal>) -> Self {
        Self {
            config,
            namespace: namespace.to_owned(),
            record_published: true,
            standby: Mutex::new(None),
            logged: Mutex::new(None),
            commit_signal,
        }
    }

    /// The same; `record` says whether published events are recorded.
    #[must_use]
    pub fn recording_published(self, record: bool) -> Self {
        Self { record_published: record, ..self }
    }

    async fn connection(&self, standby: &mut Option<PgConnection>) -> Result<PgConnection, StoreError> {
        if let Some(connection) = standby.take() {
            return Ok(connection);
        }
        let named = async {
            let mut connection = self.config.session().connect().await?;
            leadership::name_session(&mut connection).await?;
            Ok(connection)
        };
        with_timeout(self.config.timeout, named).await
    }

    /// Names the leader in the log, once.
    async fn log_change(&self, leader: Option<&Leader>) {
        let mut logged = self.logged.lock().await;
        if let Some(leader) = leader.filter(|leader| logged.as_ref() != Some(*leader)) {
            info!(%leader, "another relay is the leader");
            *logged = Some(leader.clone());
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
        if with_timeout(timeout, leadership::claim(&mut connection)).await? {
            // Events that are published and cannot be removed would be published again and again.
            with_timeout(timeout, write(&mut connection)).await?;
            let state = with_timeout(timeout, installation::state(&mut connection)).await?;
            // The namespace may have been renamed while this process was running.
            state
                .check_namespace(&self.namespace)
                .map_err(|error| StoreError::Unavailable(Cause::new(error)))?;
            *self.logged.lock().await = None;
            let low_water_mark = LowWaterMark::default();
            return Ok(Some(Box::new(PgLeaderSession {
                connection,
                timeout,
                low_water_mark,
                record_published: self.record_published,
            })));
        }
        let leader = with_timeout(timeout, leadership::leader(&mut connection)).await?;
        self.log_change(leader.as_ref()).await;
        if with_timeout(timeout, leadership::terminate_unresponsive_leader(&mut connection)).await? {
            let leader = leader.map(|leader| leader.to_string());
            warn!(leader, "terminated the session of an unresponsive leader");
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

/// Writes a row: only a server that takes writes can do it.
async fn write(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("update relay_state set unroutable = unroutable").execute(connection).await?;
    Ok(())
}

struct PgLeaderSession {
    connection: PgConnection,
    timeout: Duration,
    low_water_mark: LowWaterMark,
    record_published: bool,
}

#[async_trait]
impl LeaderSession for PgLeaderSession {
    async fn release(mut self: Box<Self>) {
        if with_timeout(self.timeout, leadership::release(&mut self.connection)).await.is_ok() {
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

    async fn remove(&mut self, ids: &[i64], unroutable: &[i64]) -> Result<(), StoreError> {
        let removal = outbox::remove(&mut self.connection, ids, unroutable, self.record_published);
        with_timeout(self.timeout, removal).await
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
    async fn purge(&mut self, retention: Retention) -> Result<Purge, StoreError> {
        let oldest = with_timeout(self.timeout, outbox::oldest_id(&mut self.connection)).await?;
        if let Some(oldest) = oldest {
            self.low_water_mark.must_be_below(oldest);
        }
        with_timeout(self.timeout, purge::purge(&mut self.connection, retention)).await
    }

    async fn add_up_failed_messages(&mut self) -> Result<(), StoreError> {
        with_timeout(self.timeout, failed_messages::add_up(&mut self.connection)).await
    }
}

//! Events between commit and publication, and who may publish them.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool, postgres::PgListener};
use tokio::sync::{Mutex, Notify};
use tracing::{debug, warn};

use crate::ports::{
    error::{StoreError, error_text},
    failed_messages::DueRetry,
    outbox::{LeaderSession, Outbox, OutboxRow, PendingWork, Retention},
    store::OutboxEvent,
};

use super::{PgConfig, failures, low_water_mark::LowWaterMark, purge, session::PooledSession, with_timeout};

/// The session that holds this advisory lock is the active relay: "relay" in ASCII.
const LEAD: i64 = 0x72_65_6c_61_79;
/// A leader whose session was silent for so long, several of its looks, is frozen.
const FROZEN_AFTER: Duration = Duration::from_secs(3);
/// Where commits of one process are announced to the relays of others.
pub(super) const CHANNEL: &str = "allocation_outbox";
/// Commits within this time are announced together.
const ANNOUNCE_EVERY: Duration = Duration::from_millis(20);

/// Appends events in the order in which they happened.
pub(super) async fn append(connection: &mut PgConnection, events: &[OutboxEvent]) -> Result<(), sqlx::Error> {
    if events.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "insert into outbox (name, sku, sequence, body, causation_id, correlation_id, traceparent)
         select * from unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[])",
        &events.iter().map(|event| event.name).collect::<Vec<_>>() as &[&str],
        &events.iter().map(|event| event.sku.as_str()).collect::<Vec<_>>() as &[&str],
        &events.iter().map(|event| event.sequence).collect::<Vec<_>>(),
        &events.iter().map(|event| event.body.as_str()).collect::<Vec<_>>() as &[&str],
        &events.iter().map(|event| &*event.causation_id).collect::<Vec<_>>() as &[&str],
        &events.iter().map(|event| &*event.correlation_id).collect::<Vec<_>>() as &[&str],
        &events.iter().map(|event| event.traceparent.as_deref()).collect::<Vec<_>>() as &[Option<&str>],
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Word of commits, for this process's relay and for those of others.
#[derive(Debug, Default)]
pub struct CommitSignal {
    here: Notify,
    elsewhere: Notify,
}

impl CommitSignal {
    /// Events were committed.
    pub fn notify(&self) {
        self.here.notify_one();
        self.elsewhere.notify_one();
    }
}

/// Tells the relays of other processes of this one's commits. A hint, no more: what fails is not tried again.
pub async fn forward_commits(pool: PgPool, timeout: Duration, commit_signal: Arc<CommitSignal>) {
    loop {
        commit_signal.elsewhere.notified().await;
        if let Err(error) = announce(&pool, timeout).await {
            debug!(
                error = error_text(&error),
                "a commit was not announced; the relay looks for itself within a second"
            );
        }
        tokio::time::sleep(ANNOUNCE_EVERY).await;
    }
}

async fn announce(pool: &PgPool, timeout: Duration) -> Result<(), StoreError> {
    let mut session = PooledSession::open(pool, timeout).await?;
    let notify = sqlx::query("select pg_notify($1, '')").bind(CHANNEL);
    session.run(async |connection| notify.execute(connection).await).await?;
    session.release();
    Ok(())
}

/// The outbox as its relay sees it.
pub struct PgOutbox {
    access: PgConfig,
    /// Kept between tries to lead, so that a standby does not connect every time.
    standby: Mutex<Option<PgConnection>>,
    commit_signal: Arc<CommitSignal>,
}

impl PgOutbox {
    /// The outbox of a database; `commits` tells of this process's own.
    #[must_use]
    pub fn new(access: PgConfig, commit_signal: Arc<CommitSignal>) -> Self {
        Self { access, standby: Mutex::new(None), commit_signal }
    }

    /// Passes on what other processes announce, as long as it is polled.
    pub async fn listen(&self) {
        loop {
            if let Err(error) = self.pass_on_announcements().await {
                debug!(error = error_text(&error), "not listening; the relay looks for itself every second");
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn pass_on_announcements(&self) -> Result<(), sqlx::Error> {
        let pool =
            sqlx::pool::PoolOptions::new().max_connections(1).connect_lazy_with(self.access.options.clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen(CHANNEL).await?;
        loop {
            listener.recv().await?;
            self.commit_signal.here.notify_one();
        }
    }
}

#[async_trait]
impl Outbox for PgOutbox {
    async fn try_lead(&self) -> Result<Option<Box<dyn LeaderSession>>, StoreError> {
        let timeout = self.access.timeout;
        let mut standby = self.standby.lock().await;
        let mut connection = match standby.take() {
            Some(connection) => connection,
            None => with_timeout(timeout, self.access.options.connect()).await?,
        };
        let locked = sqlx::query_scalar!(r#"select pg_try_advisory_lock($1) as "locked!""#, LEAD);
        if with_timeout(timeout, locked.fetch_one(&mut connection)).await? {
            return Ok(Some(Box::new(PgLeaderSession {
                connection,
                timeout,
                low_water_mark: LowWaterMark::default(),
            })));
        }
        if with_timeout(timeout, end_frozen_leader(&mut connection)).await? {
            warn!("the leading relay was frozen; its session was ended");
        }
        *standby = Some(connection);
        Ok(None)
    }

    async fn wait_for_wakeup(&self) {
        self.commit_signal.here.notified().await;
    }
}

/// Ends the session that leads, if its process does not look at it any more: stopped, or on a machine that is gone.
/// Whatever it would still remove from the outbox when it wakes up, it cannot.
async fn end_frozen_leader(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let ended = sqlx::query_scalar!(
        r#"select pg_terminate_backend(held.pid) as "ended!"
           from pg_locks held join pg_stat_activity session using (pid)
           where held.locktype = 'advisory' and held.granted and held.objsubid = 1
             and held.database = (select oid from pg_database where datname = current_database())
             and (held.classid::bigint << 32 | held.objid::bigint) = $1
             and (session.state <> 'active' and session.state_change < now() - make_interval(secs => $2)
                  or session.wait_event = 'ClientWrite' and session.query_start < now() - make_interval(secs => $2))"#,
        LEAD,
        FROZEN_AFTER.as_secs_f64(),
    );
    Ok(ended.fetch_optional(connection).await?.unwrap_or(false))
}

/// All it does it does on the session that holds the lock: losing the session is losing the lead.
struct PgLeaderSession {
    connection: PgConnection,
    timeout: Duration,
    low_water_mark: LowWaterMark,
}

#[async_trait]
impl LeaderSession for PgLeaderSession {
    async fn pending(&mut self) -> Result<PendingWork, StoreError> {
        let look = sqlx::query!(
            r#"select exists (select from outbox o where id > $1 and refused is null
                              and not exists (select from outbox r where r.refused is not null and r.sku = o.sku)
                      ) as "events!",
                      (select extract(epoch from due_at - now())::double precision from failed_messages
                       where status = 'retrying' and published_at is null order by due_at limit 1) as retry_in,
                      (select last_value from outbox_id_seq) as "last_id!""#,
            self.low_water_mark.id(),
        );
        let look = with_timeout(self.timeout, look.fetch_one(&mut self.connection)).await?;
        self.low_water_mark.must_be_below(look.last_id + 1);
        let retry_in = look.retry_in.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default());
        Ok(PendingWork { events: look.events, retry_in })
    }

    async fn unpublished(&mut self, at_most: u32, except: &[String]) -> Result<Vec<OutboxRow>, StoreError> {
        // Where it may not look, it stays where it is; if the session is lost, the next question tells.
        if let Err(error) =
            with_timeout(self.timeout, self.low_water_mark.advance(&mut self.connection)).await
        {
            debug!(error = error_text(&error), "reading begins where it began before");
        }
        let rows = sqlx::query_as!(
            OutboxRow,
            r#"select id, event_id, name, sku, sequence, body, causation_id, correlation_id, traceparent,
                      extract(epoch from committed_at)::bigint as "committed_at!: UnixSeconds"
               from outbox o
               where id > $2 and refused is null and sku <> all($3)
                 and not exists (select from outbox r where r.refused is not null and r.sku = o.sku)
               order by id limit $1"#,
            i64::from(at_most),
            self.low_water_mark.id(),
            except,
        );
        with_timeout(self.timeout, rows.fetch_all(&mut self.connection)).await
    }

    async fn remove(&mut self, ids: &[i64], unroutable: i64) -> Result<(), StoreError> {
        let delete = sqlx::query!(
            "with counted as (
                 update relay_state set unroutable = unroutable + $2 where $2::bigint > 0
             )
             delete from outbox where id = any($1)",
            ids,
            unroutable,
        );
        with_timeout(self.timeout, delete.execute(&mut self.connection)).await.map(drop)
    }

    async fn park(&mut self, id: i64, reason: &str) -> Result<(), StoreError> {
        let update =
            sqlx::query!("update outbox set refused = $2, refused_at = now() where id = $1", id, reason);
        with_timeout(self.timeout, update.execute(&mut self.connection)).await.map(drop)
    }

    async fn due_retries(&mut self, at_most: u32) -> Result<Vec<DueRetry>, StoreError> {
        with_timeout(self.timeout, failures::due(&mut self.connection, at_most)).await
    }

    async fn retries_published(&mut self, retries: &[&DueRetry]) -> Result<(), StoreError> {
        with_timeout(self.timeout, failures::published(&mut self.connection, retries)).await
    }

    async fn defer(&mut self, retries: &[&DueRetry], reason: &str) -> Result<(), StoreError> {
        with_timeout(self.timeout, failures::hold(&mut self.connection, retries, reason)).await
    }

    async fn reject(&mut self, retry: &DueRetry, reason: &str) -> Result<(), StoreError> {
        with_timeout(self.timeout, failures::refuse(&mut self.connection, retry, reason)).await
    }

    async fn purge_expired(&mut self, retention: Retention) -> Result<bool, StoreError> {
        let oldest = sqlx::query_scalar!("select id from outbox order by id limit 1");
        if let Some(oldest) = with_timeout(self.timeout, oldest.fetch_optional(&mut self.connection)).await? {
            self.low_water_mark.must_be_below(oldest);
        }
        with_timeout(self.timeout, purge::purge_expired(&mut self.connection, retention)).await
    }

    async fn release(mut self: Box<Self>) {
        let announce =
            sqlx::query("select pg_advisory_unlock($1), pg_notify($2, '')").bind(LEAD).bind(CHANNEL);
        if with_timeout(self.timeout, announce.execute(&mut self.connection)).await.is_ok() {
            let _ = self.connection.close().await;
        }
    }
}

/// Seconds since 1970, as the database says them.
#[derive(sqlx::Type)]
#[sqlx(transparent)]
struct UnixSeconds(i64);

impl From<UnixSeconds> for u64 {
    fn from(seconds: UnixSeconds) -> Self {
        Self::try_from(seconds.0).unwrap_or_default()
    }
}

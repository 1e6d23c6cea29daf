//! What waits in the database, measured for metrics.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{Executor as _, PgConnection};
use tokio::sync::Mutex;

use crate::{
    domain::StatusKind,
    pg::{PgConfig, with_timeout},
    ports::{
        error::StoreError,
        observer::{Backlog, BacklogReader, FailedMessageCount},
        processes::{LOST_AFTER, ROLES},
        queue::QueueName,
    },
};

/// Events are counted up to this: the cost is bounded, however large the table is.
const MAX_EVENTS: i64 = 100_000;
/// The same for the failed messages of each queue and status. With a million of them this takes some tens of milliseconds.
const MAX_FAILED_MESSAGES: i64 = 10_000;
/// The groups of dead letters are looked up one by one.
const MAX_GROUPS: i64 = 1_000;
/// Of the retries, those are read that are due first. A retry that the broker did not accept is due again within seconds: it
/// waits since its last failure.
const MAX_RETRIES: i64 = 1_000;
/// A measurement that takes longer is given up.
const TIMEOUT: Duration = Duration::from_secs(3);
/// The statuses that are counted: resolved messages need no one.
const STATUSES: [StatusKind; 4] =
    [StatusKind::Retrying, StatusKind::Waiting, StatusKind::Dead, StatusKind::Discarded];

/// Measures on a session of its own, which is opened when it is first used.
pub struct PgBacklogReader {
    config: PgConfig,
    session: Mutex<Option<PgConnection>>,
}

impl PgBacklogReader {
    /// A reader of this database.
    #[must_use]
    pub fn new(config: PgConfig) -> Self {
        Self { config, session: Mutex::default() }
    }

    async fn open(&self) -> Result<PgConnection, sqlx::Error> {
        let mut session = self.config.session().connect().await?;
        // The server gives up as well.
        session.execute(format!("set statement_timeout = {}", TIMEOUT.as_millis()).as_str()).await?;
        Ok(session)
    }
}

#[async_trait]
impl BacklogReader for PgBacklogReader {
    async fn backlog(&self) -> Result<Backlog, StoreError> {
        let mut kept = self.session.lock().await;
        let session = kept.take();
        let measured = with_timeout(TIMEOUT, async {
            let mut session = match session {
                Some(session) => session,
                None => self.open().await?,
            };
            let mut backlog = outbox_and_retries(&mut session).await?;
            backlog.failed_messages = failed_messages(&mut session).await?;
            backlog.processes = processes(&mut session).await?;
            Ok((session, backlog))
        });
        // A session with an error is closed.
        let (session, backlog) = measured.await?;
        *kept = Some(session);
        Ok(backlog)
    }
}

async fn outbox_and_retries(session: &mut PgConnection) -> Result<Backlog, sqlx::Error> {
    let row = sqlx::query!(
        r#"select (select count(*) from (select from outbox limit $1) counted) as "pending!",
                  coalesce((select extract(epoch from now() - committed_at)::double precision
                            from outbox o
                            where refused is null
                              and not exists (select from outbox r where r.refused is not null and r.sku = o.sku)
                            order by id limit 1), 0) as "oldest!",
                  (select count(*) from (select from outbox where refused is not null limit $1) counted) as "parked!",
                  coalesce((select pg_catalog.max(extract(epoch from now() - waits_since))::double precision
                            from (select case when held_because is null then due_at else last_failed_at end as waits_since
                                  from failed_messages where status = 'retrying' and published_at is null
                                  order by due_at limit $3) due), 0) as "overdue!",
                  (with recursive found as (
                       (select error_group, 1 as number from failed_messages where status = 'dead'
                        order by error_group limit 1)
                       union all
                       select (select f.error_group from failed_messages f
                               where f.status = 'dead' and f.error_group > found.error_group
                               order by f.error_group limit 1), number + 1
                       from found where found.error_group is not null and number < $2::bigint
                   ) select pg_catalog.count(error_group) from found) as "groups!""#,
        MAX_EVENTS,
        MAX_GROUPS,
        MAX_RETRIES,
    );
    let row = row.fetch_one(session).await?;
    Ok(Backlog {
        outbox_pending: row.pending.unsigned_abs(),
        outbox_oldest: seconds(row.oldest),
        outbox_parked: row.parked.unsigned_abs(),
        failed_messages: Vec::new(),
        failed_message_groups: row.groups.unsigned_abs(),
        retries_overdue: seconds(row.overdue),
        processes: Vec::new(),
    })
}

/// One number for each queue and status, zero included.
async fn failed_messages(session: &mut PgConnection) -> Result<Vec<FailedMessageCount>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select queue as "queue!", status as "status!",
                  (select count(*) from (select from failed_messages f
                                         where f.queue = queues.queue and f.status = statuses.status
                                           and f.status <> 'resolved' limit $3) counted) as "messages!"
           from pg_catalog.unnest($1::text[]) as queues(queue), pg_catalog.unnest($2::text[]) as statuses(status)"#,
        &QueueName::ALL.map(QueueName::as_str) as &[&str],
        &STATUSES.map(StatusKind::as_str) as &[&str],
        MAX_FAILED_MESSAGES,
    );
    let counts = rows.fetch_all(session).await?.into_iter().filter_map(|row| {
        let queue = QueueName::ALL.into_iter().find(|queue| queue.as_str() == row.queue)?;
        let status = StatusKind::from_name(&row.status)?;
        Some(FailedMessageCount { queue, status, messages: row.messages.unsigned_abs() })
    });
    Ok(counts.collect())
}

/// One number for each role, zero included.
async fn processes(session: &mut PgConnection) -> Result<Vec<(&'static str, u64)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select role as "role!",
                  (select count(*) from processes
                   where role = any(roles) and stopped_at is null
                     and seen_at > now() - make_interval(secs => $2)) as "processes!"
           from pg_catalog.unnest($1::text[]) as roles_of_program(role)"#,
        &ROLES as &[&str],
        LOST_AFTER.as_secs_f64(),
    );
    let counts = rows.fetch_all(session).await?.into_iter().filter_map(|row| {
        let role = ROLES.into_iter().find(|role| *role == row.role)?;
        Some((role, row.processes.unsigned_abs()))
    });
    Ok(counts.collect())
}

/// A time that is not in the past is zero.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

//! What the database knows about a queue that does not move.

use std::time::Duration;

use crate::ports::{
    diagnosis::{InterruptedMessage, LockHolder, Locks, QueueBacklog},
    error::StoreError,
    queue::QueueName,
};

use super::handle::Views;

/// Messages are counted up to this.
const MAX_MESSAGES: i64 = 10_000;
/// So many retries are read: those due first, and those that failed last.
const MAX_RETRIES: i64 = 1_000;
/// Starts without an end that are older are those of processes that were killed once.
const INTERRUPTED_WITHIN: f64 = 600.0;
/// A transaction of another program that lasts longer, in seconds, can delay this program.
const LONG_TRANSACTION: f64 = 1.0;
/// The same for this program, whose units of work may take some seconds.
const LONG_UNIT_OF_WORK: f64 = 30.0;

impl Views {
    /// Sessions with long transactions that hold locks on rows of this program, and those that others wait for.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn locks(&self) -> Result<Locks, StoreError> {
        let rows = sqlx::query!(
            r#"with waiting as (
                   select pid, pg_blocking_pids(pid) as blockers from pg_stat_activity
                   where datname = current_database() and wait_event_type = 'Lock'
               )
               select holder.pid as "pid!", coalesce(holder.application_name, '') as "application!", holder.state,
                      holder.xact_start as since,
                      (select count(*) from waiting where holder.pid = any(blockers)) as "waiting!",
                      exists (select from waiting where waiting.pid = holder.pid) as "is_waiting!"
               from pg_stat_activity holder
               where holder.datname = current_database() and holder.pid <> pg_backend_pid()
                 and (exists (select from waiting where holder.pid = any(blockers))
                      or exists (
                          select from pg_locks held join pg_class on pg_class.oid = held.relation
                          where held.pid = holder.pid and held.granted and held.locktype = 'relation'
                            and pg_class.relkind = 'r' and pg_class.relnamespace = current_schema()::regnamespace
                            and held.mode not in ('AccessShareLock', 'ShareUpdateExclusiveLock')
                      ) and holder.xact_start < now() - make_interval(secs =>
                              case when holder.application_name like 'allocation%'
                              then $2::double precision else $1::double precision end))
               order by 6, 5 desc, holder.xact_start nulls last limit 5"#,
            LONG_TRANSACTION,
            LONG_UNIT_OF_WORK,
        );
        let hidden = sqlx::query_scalar!(
            r#"select exists (
                   select from pg_stat_activity
                   where datname = current_database() and pid <> pg_backend_pid() and state is null
               ) as "hidden!""#
        );
        let (rows, has_hidden_sessions) = self
            .query(async |connection| {
                Ok((rows.fetch_all(&mut *connection).await?, hidden.fetch_one(connection).await?))
            })
            .await?;
        let holders = rows.into_iter().map(|row| LockHolder {
            pid: row.pid,
            application: row.application,
            state: row.state,
            since: row.since,
            waiting: row.waiting.unsigned_abs(),
            is_waiting: row.is_waiting,
        });
        Ok(Locks { holders: holders.collect(), has_hidden_sessions })
    }

    /// What waits for a queue.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn queue_backlog(&self, queue: QueueName) -> Result<QueueBacklog, StoreError> {
        let relay_leads = self.relay_leader().await?.is_some();
        let row = sqlx::query!(
            r#"with due as (
                   select queue, due_at, held_because from failed_messages
                   where status = 'retrying' and published_at is null order by due_at limit $3
               ), held as (
                   select held_because from due where queue = $1 and held_because is not null
               ), newest as (
                   select queue, error_pattern, last_failed_at from failed_messages
                   where status = 'retrying' order by last_failed_at desc, id desc limit $3
               )
               select (select count(*) from (select from failed_messages where queue = $1 and status = 'retrying'
                                             and status <> 'resolved' limit $2) counted) as "retrying!",
                      (select count(*) from (select from failed_messages where queue = $1 and status = 'waiting'
                                             and status <> 'resolved' limit $2) counted) as "waiting!",
                      (select due_at from due where queue = $1 order by due_at limit 1) as next_due,
                      coalesce((select extract(epoch from now() - due_at)::double precision from due
                                where queue = $1 and held_because is null order by due_at limit 1), 0) as "overdue!",
                      coalesce((select extract(epoch from now() - committed_at)::double precision from outbox o
                                where refused is null
                                  and not exists (select from outbox r where r.refused is not null and r.sku = o.sku)
                                order by id limit 1), 0) as "oldest_event!",
                      (select count(*) from held) as "held!", (select held_because from held limit 1) as held_because,
                      (select count(*) from newest where queue = $1 and error_pattern like $4
                          and last_failed_at > now() - interval '1 minute') as "postponed!",
                      (select count(*) from (select from outbox where refused is not null limit $2) counted) as "parked!",
                      nacked_events, nacked_since
               from relay_state"#,
            queue.as_str(),
            MAX_MESSAGES,
            MAX_RETRIES,
            format!("%{}%", StoreError::Locked("".into())),
        );
        let row = self.query(async |connection| row.fetch_one(connection).await).await?;
        let count = i64::unsigned_abs;
        Ok(QueueBacklog {
            relay_leads,
            retrying: count(row.retrying),
            next_due: row.next_due,
            retries_overdue: Duration::try_from_secs_f64(row.overdue).unwrap_or_default(),
            oldest_event: Duration::try_from_secs_f64(row.oldest_event).unwrap_or_default(),
            held: count(row.held),
            held_because: row.held_because,
            waiting: count(row.waiting),
            postponed_by_lock: count(row.postponed),
            parked: count(row.parked),
            nacked_events: row.nacked_events,
            nacked_since: row.nacked_since,
            interrupted: self.interrupted_message(queue).await?,
        })
    }

    async fn interrupted_message(&self, queue: QueueName) -> Result<Option<InterruptedMessage>, StoreError> {
        let row = sqlx::query!(
            "select message_id, starts, started_at from message_starts
             where queue = $1 and started_at > now() - make_interval(secs => $2) order by starts desc, started_at desc limit 1",
            queue.as_str(),
            INTERRUPTED_WITHIN,
        );
        let row = self.query(async |connection| row.fetch_optional(connection).await).await?;
        Ok(row.map(|row| InterruptedMessage {
            message_id: row.message_id,
            starts: row.starts.unsigned_abs(),
            started_at: row.started_at,
        }))
    }
}

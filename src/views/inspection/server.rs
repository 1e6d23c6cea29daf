//! The server of the database: its version, its sessions, and what waits in it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{
    ports::{
        checks::{DatabaseServer, OldTransaction, Sessions, StoredBacklog},
        error::StoreError,
    },
    views::handle::Views,
};

/// Rows are counted up to this.
const MAX_ROWS: i64 = 1_000;
/// A transaction that lasts longer keeps the server from removing dead rows. In seconds.
const OLD_TRANSACTION: f64 = 300.0;

impl Views {
    /// The server, compared with the clock of this machine.
    ///
    /// # Errors
    /// The database is unavailable.
    #[expect(clippy::disallowed_methods, reason = "the clock of this machine is what is checked")]
    pub async fn database_server(&self) -> Result<DatabaseServer, StoreError> {
        let server = sqlx::query!(
            r#"select current_setting('server_version_num')::integer as "version!",
                      coalesce((select ssl from pg_stat_ssl where pid = pg_backend_pid()), false) as "is_encrypted!",
                      current_setting('max_connections')::integer
                          - current_setting('superuser_reserved_connections')::integer as "max_connections!",
                      extract(epoch from clock_timestamp())::double precision as "clock!""#
        );
        let (begin, row, end) = self
            .query(async |connection| {
                // The first statement of a session takes longer.
                sqlx::query("select 1").execute(&mut *connection).await?;
                let begin = SystemTime::now();
                Ok((begin, server.fetch_one(connection).await?, SystemTime::now()))
            })
            .await?;
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        Ok(DatabaseServer {
            version: row.version,
            is_encrypted: row.is_encrypted,
            max_connections: row.max_connections.unsigned_abs(),
            clock_ahead: row.clock - f64::midpoint(seconds(begin), seconds(end)),
        })
    }

    /// The sessions of the database that delay others.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn sessions(&self) -> Result<Sessions, StoreError> {
        let old = sqlx::query!(
            r#"select pid as "pid!", coalesce(application_name, '') as "application!", xact_start as "since!"
               from pg_stat_activity
               where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'
                 and xact_start < now() - make_interval(secs => $1)
               order by xact_start limit $2"#,
            OLD_TRANSACTION,
            MAX_ROWS,
        );
        let waiting = sqlx::query!(
            r#"select pid as "pid!", pg_blocking_pids(pid) as "holders!" from pg_stat_activity
               where datname = current_database() and wait_event_type = 'Lock' order by pid limit $1"#,
            MAX_ROWS,
        );
        let hidden = sqlx::query_scalar!(
            r#"select exists (
                   select from pg_stat_activity
                   where datname = current_database() and pid <> pg_backend_pid() and state is null
               ) as "hidden!""#
        );
        self.query(async |connection| {
            let old = old.fetch_all(&mut *connection).await?;
            let waiting = waiting.fetch_all(&mut *connection).await?;
            let has_hidden = hidden.fetch_one(connection).await?;
            let old = old.into_iter().map(|row| OldTransaction {
                pid: row.pid,
                application: row.application,
                since: row.since,
            });
            Ok(Sessions {
                has_hidden,
                old_transactions: old.collect(),
                waiting: waiting.into_iter().map(|row| (row.pid, row.holders)).collect(),
            })
        })
        .await
    }

    /// What waits in the database, and how long the oldest handled message is kept beyond `inbox`.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn stored_backlog(&self, inbox: Duration) -> Result<StoredBacklog, StoreError> {
        let row = sqlx::query!(
            r#"select (select count(*) from (
                           select held_because from failed_messages
                           where status = 'retrying' and published_at is null order by due_at limit $1
                       ) due where held_because is not null) as "held!",
                      (select count(*) from (select from outbox where refused is not null limit $1) counted) as "parked!",
                      coalesce((select extract(epoch from now() - committed_at)::double precision from outbox o
                                where refused is null
                                  and not exists (select from outbox r where r.refused is not null and r.sku = o.sku)
                                order by id limit 1), 0) as "oldest_event!",
                      coalesce((select extract(epoch from now() - handled_at)::double precision - $2::double precision
                                from inbox order by handled_at limit 1), 0) as "expired_for!""#,
            MAX_ROWS,
            inbox.as_secs_f64(),
        );
        let row = self.query(async |connection| row.fetch_one(connection).await).await?;
        let duration = |seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default();
        Ok(StoredBacklog {
            held_retries: row.held.unsigned_abs(),
            parked_events: row.parked.unsigned_abs(),
            oldest_event: duration(row.oldest_event),
            expired_for: duration(row.expired_for),
        })
    }
}

//! Lists of failed messages, and the space that they take.

use std::{fmt, str::FromStr};

use serde::Serialize;
use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

use crate::{
    domain::StatusKind,
    ports::{
        error::StoreError,
        failed_messages::{FailedMessageFilter, Since},
    },
};

use super::handle::Views;

/// A failed message in a list.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the contract's own names, section 6")]
pub struct FailedMessageSummary {
    pub id: i64,
    pub queue: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub message_id: Option<String>,
    pub status: String,
    pub reason: Option<String>,
    pub error: String,
    pub attempts: i32,
    #[serde(with = "time::serde::rfc3339")]
    pub first_failed_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub last_failed_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    pub due_at: Option<OffsetDateTime>,
    /// The message id of the last command with its line or batch that was handled after it was dead.
    pub overtaken_by: Option<String>,
    /// The failed message that a waiting one waits for.
    pub behind: Option<i64>,
}

impl FailedMessageSummary {
    /// Its place in a list.
    #[must_use]
    pub fn position(&self) -> ListPosition {
        ListPosition { last_failed_at: self.last_failed_at, id: self.id }
    }
}

/// A place in the list of failed messages. It stays the same place when the message that was there fails again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListPosition {
    last_failed_at: OffsetDateTime,
    id: i64,
}

impl fmt::Display for ListPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.last_failed_at.to_offset(UtcOffset::UTC).format(&Rfc3339).map_err(|_| fmt::Error)?;
        write!(f, "{time},{}", self.id)
    }
}

impl FromStr for ListPosition {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once(',').and_then(|(time, id)| {
            let last_failed_at = OffsetDateTime::parse(time, &Rfc3339).ok()?;
            Some(Self { last_failed_at, id: id.parse().ok()? })
        });
        parts.ok_or("must be TIME,ID as `list` prints it, for example 2026-11-25T02:00:00.123456Z,42")
    }
}

impl Views {
    /// Matching messages, newest first, after the place `cursor`.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn failed_messages(
        &self,
        filter: &FailedMessageFilter,
        limit: i64,
        cursor: Option<ListPosition>,
    ) -> Result<Vec<FailedMessageSummary>, StoreError> {
        let (within_seconds, since) = filter.since.map(Since::parts).unwrap_or_default();
        let messages = sqlx::query_as!(
            FailedMessageSummary,
            r#"select f.id, $11::text || '.' || f.queue as "queue!", f.type as kind, f.message_id, f.status, f.reason,
                      f.error, f.attempts, f.first_failed_at, f.last_failed_at, f.due_at, f.overtaken_by,
                      case when f.status = 'waiting' then (
                          select e.id from failed_messages e
                          where e.key = f.key and e.status in ('retrying', 'waiting') order by e.id limit 1
                      ) end as behind
               from failed_messages f
               where failed_message_matches(f, $1, $2, $3, $4, $5, $6,
                         coalesce($7, extract(epoch from now() - $12::timestamptz)::double precision), $8)
                 and ($9::timestamptz is null or (f.last_failed_at, f.id) < ($9, $13::bigint))
               order by f.last_failed_at desc, f.id desc limit $10"#,
            filter.ids.as_deref(),
            filter.status.map(StatusKind::as_str),
            filter.queue,
            filter.kind,
            filter.reason,
            filter.grep,
            within_seconds,
            filter.group,
            cursor.map(|cursor| cursor.last_failed_at),
            limit,
            self.namespace,
            since,
            cursor.map(|cursor| cursor.id),
        );
        self.query(async |connection| messages.fetch_all(connection).await).await
    }

    /// The bytes that failed messages take in the database. Removed rows leave free space in the files; therefore, above
    /// `limit`, the bytes of the rows are counted.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn failed_message_bytes(&self, limit: u64) -> Result<u64, StoreError> {
        let files = sqlx::query_scalar!(
            r#"select pg_total_relation_size('failed_messages') + pg_total_relation_size('failed_attempts')
                      + pg_total_relation_size('failed_actions') as "bytes!""#
        );
        let files = self.query(async |connection| files.fetch_one(connection).await).await?;
        if u64::try_from(files).unwrap_or_default() <= limit {
            return Ok(u64::try_from(files).unwrap_or_default());
        }
        let rows = sqlx::query_scalar!(
            r#"select ((select coalesce(sum(pg_column_size(body) + pg_column_size(original) + pg_column_size(properties)
                                            + pg_column_size(error) + 400), 0) from failed_messages)
                     + (select coalesce(sum(pg_column_size(error) + pg_column_size(chain) + 100), 0)
                        from failed_attempts))::bigint as "bytes!""#
        );
        let rows = self.query(async |connection| rows.fetch_one(connection).await).await?;
        Ok(u64::try_from(rows).unwrap_or_default())
    }
}

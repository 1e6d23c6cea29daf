//! Failed messages by group and status. The numbers are kept up to date by the database; see migration 0020.

use serde::Serialize;
use time::OffsetDateTime;

use crate::{domain::Reason, ports::error::StoreError};

use super::handle::Views;

/// Dead letters with the same queue, type, reason and error pattern. All unknown types are one type, "…" if there are several.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the contract's own names, section 6")]
pub struct FailureGroup {
    pub group: String,
    pub queue: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub reason: Option<String>,
    pub error: String,
    pub count: i64,
    #[serde(with = "time::serde::rfc3339")]
    pub first_failed_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub last_failed_at: OffsetDateTime,
}

/// The number of failed messages in each status except `resolved`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the contract's own names, section 6")]
pub struct FailureCounts {
    pub retrying: i64,
    pub waiting: i64,
    pub dead: i64,
    pub discarded: i64,
}

impl Views {
    /// At most `limit` groups of dead letters, the largest first, and the number of all groups.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn dead_letter_groups(&self, limit: i64) -> Result<(Vec<FailureGroup>, i64), StoreError> {
        let groups = sqlx::query_file!(
            "src/views/dead_letter_groups.sql",
            self.namespace,
            limit,
            Reason::UnknownCommand.as_str(),
        );
        let rows = self.query(async |connection| groups.fetch_all(connection).await).await?;
        let all = rows.first().map_or(0, |row| row.groups);
        let groups = rows.into_iter().map(|row| FailureGroup {
            group: row.group,
            queue: row.queue,
            kind: row.kind,
            reason: row.reason,
            error: row.error,
            count: row.count,
            first_failed_at: row.first_failed_at,
            last_failed_at: row.last_failed_at,
        });
        Ok((groups.collect(), all))
    }

    /// The number of failed messages by status.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn failure_counts(&self) -> Result<FailureCounts, StoreError> {
        let counts = sqlx::query_as!(
            FailureCounts,
            r#"select coalesce(sum(n) filter (where status = 'retrying'), 0)::bigint as "retrying!",
                      coalesce(sum(n) filter (where status = 'waiting'), 0)::bigint as "waiting!",
                      coalesce(sum(n) filter (where status = 'dead'), 0)::bigint as "dead!",
                      coalesce(sum(n) filter (where status = 'discarded'), 0)::bigint as "discarded!"
               from (
                   select status, n from failed_message_totals where error_group = ''
                   union all
                   select status, n from failed_message_changes
               ) as counted"#
        );
        self.query(async |connection| counts.fetch_one(connection).await).await
    }
}

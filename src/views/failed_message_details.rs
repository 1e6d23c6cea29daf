//! Failed messages in full: one, or all that match, page by page.

use std::{collections::HashMap, mem};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Serialize;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::{
    domain::StatusKind,
    ports::{
        error::StoreError,
        failed_messages::{FailedMessageFilter, Since},
    },
};

use super::{failed_messages::FailedMessageSummary, handle::Views};

/// The most messages of a page.
const PAGE_MESSAGES: usize = 1_000;
/// The most bytes of a page, unless a single message has more.
const PAGE_BYTES: i64 = 4 * 1024 * 1024;

/// A failed message in full.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the contract's own names, section 6")]
pub struct FailedMessageDetail {
    #[serde(flatten)]
    pub summary: FailedMessageSummary,
    pub group: String,
    /// Why its retry was not published yet.
    pub held_because: Option<String>,
    pub properties: Value,
    pub headers: Value,
    pub body: Value,
    pub history: Vec<AttemptRow>,
    pub actions: Vec<ActionRow>,
    /// The queue without the namespace.
    #[serde(skip)]
    pub queue_name: String,
    /// The body as received.
    #[serde(skip)]
    pub bytes: Vec<u8>,
    /// Increases with every attempt and every retry.
    #[serde(skip)]
    pub generation: i64,
}

/// A failed attempt.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the contract's own names, section 6")]
pub struct AttemptRow {
    pub attempt: i32,
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    pub host: String,
    /// The version of the program; older attempts have none.
    pub version: Option<String>,
    pub duration_ms: i64,
    pub error: String,
    pub chain: Vec<String>,
    /// The trace in which it is recorded.
    pub trace_id: Option<String>,
}

/// An action of an operator.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the contract's own names, section 6")]
pub struct ActionRow {
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    pub who: String,
    /// The role that was logged in to the database, and from where; none by a socket.
    pub database_user: Option<String>,
    pub address: Option<String>,
    pub what: String,
    pub why: Option<String>,
}

impl Views {
    /// A failed message in full.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn failed_message(&self, id: i64) -> Result<Option<FailedMessageDetail>, StoreError> {
        Ok(self.failed_message_details(&[id]).await?.pop())
    }

    /// The ids of the matching messages, in pages that are small enough to be in memory; the message that failed first is
    /// first.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn failed_message_pages(
        &self,
        filter: &FailedMessageFilter,
    ) -> Result<Vec<Vec<i64>>, StoreError> {
        let (within_seconds, since) = filter.since.map(Since::parts).unwrap_or_default();
        // The sizes of values that are stored apart are known without reading them.
        let sizes = sqlx::query!(
            r#"select f.id, (octet_length(f.body) + 2 * octet_length(f.original))::bigint as "bytes!"
               from failed_messages f
               where failed_message_matches(f, $1, $2, $3, $4, $5, $6,
                   coalesce($7, extract(epoch from now() - $9::timestamptz)::double precision), $8)
               order by f.id"#,
            filter.ids.as_deref(),
            filter.status.map(StatusKind::as_str),
            filter.queue,
            filter.kind,
            filter.reason,
            filter.grep,
            within_seconds,
            filter.group,
            since,
        );
        let sizes = self.query(async |connection| sizes.fetch_all(connection).await).await?;
        Ok(pages(sizes.into_iter().map(|row| (row.id, row.bytes))))
    }

    /// Failed messages in full, in the order of `ids`. A message that does not exist is left out.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn failed_message_details(&self, ids: &[i64]) -> Result<Vec<FailedMessageDetail>, StoreError> {
        let (mut attempts, mut actions) = (self.attempts(ids).await?, self.actions(ids).await?);
        let rows = sqlx::query!(
            r#"select f.id, $2::text || '.' || f.queue as "full_queue!", f.type as kind, f.message_id, f.status, f.reason,
                      f.error, f.attempts, f.first_failed_at, f.last_failed_at, f.due_at,
                      f.properties::text as "properties!", f.body, f.queue, f.generation, f.error_group, f.held_because,
                      f.overtaken_by, case when f.status = 'waiting' then (
                          select e.id from failed_messages e
                          where e.key = f.key and e.status in ('retrying', 'waiting') order by e.id limit 1
                      ) end as behind
               from failed_messages f join pg_catalog.unnest($1::bigint[]) with ordinality as wanted (id, place) using (id)
               order by wanted.place"#,
            ids,
            self.namespace,
        );
        let rows = self.query(async |connection| rows.fetch_all(connection).await).await?;
        let details = rows.into_iter().map(|row| {
            let mut stored: Value = serde_json::from_str(&row.properties).unwrap_or_default();
            FailedMessageDetail {
                group: row.error_group,
                held_because: row.held_because,
                properties: stored["properties"].take(),
                headers: stored["headers"].take(),
                body: body_json(&row.body),
                history: attempts.remove(&row.id).unwrap_or_default(),
                actions: actions.remove(&row.id).unwrap_or_default(),
                queue_name: row.queue,
                bytes: row.body,
                generation: row.generation,
                summary: FailedMessageSummary {
                    id: row.id,
                    queue: row.full_queue,
                    kind: row.kind,
                    message_id: row.message_id,
                    status: row.status,
                    reason: row.reason,
                    error: row.error,
                    attempts: row.attempts,
                    first_failed_at: row.first_failed_at,
                    last_failed_at: row.last_failed_at,
                    due_at: row.due_at,
                    overtaken_by: row.overtaken_by,
                    behind: row.behind,
                },
            }
        });
        Ok(details.collect())
    }

    async fn attempts(&self, ids: &[i64]) -> Result<HashMap<i64, Vec<AttemptRow>>, StoreError> {
        let rows = sqlx::query!(
            "select failed_message_id as id, attempt, at, host, version, duration_ms, error, chain,
                    trace_id
             from failed_attempts where failed_message_id = any($1) order by failed_message_id, generation",
            ids,
        );
        let rows = self.query(async |connection| rows.fetch_all(connection).await).await?;
        let mut of: HashMap<i64, Vec<AttemptRow>> = HashMap::new();
        for row in rows {
            of.entry(row.id).or_default().push(AttemptRow {
                attempt: row.attempt,
                at: row.at,
                host: row.host,
                version: row.version,
                duration_ms: row.duration_ms,
                error: row.error,
                chain: row.chain,
                trace_id: row.trace_id,
            });
        }
        Ok(of)
    }

    async fn actions(&self, ids: &[i64]) -> Result<HashMap<i64, Vec<ActionRow>>, StoreError> {
        let rows = sqlx::query!(
            "select failed_message_id as message, at, who, database_user, host(client_address) as address, what, why
             from failed_actions where failed_message_id = any($1) order by id",
            ids,
        );
        let rows = self.query(async |connection| rows.fetch_all(connection).await).await?;
        let mut of: HashMap<i64, Vec<ActionRow>> = HashMap::new();
        for row in rows {
            let (at, who, database_user, address) = (row.at, row.who, row.database_user, row.address);
            let action = ActionRow { at, who, database_user, address, what: row.what, why: row.why };
            of.entry(row.message).or_default().push(action);
        }
        Ok(of)
    }
}

/// Divides messages into pages, by their number and by their sizes.
fn pages(sizes: impl IntoIterator<Item = (i64, i64)>) -> Vec<Vec<i64>> {
    let (mut pages, mut page, mut bytes) = (Vec::new(), Vec::new(), 0);
    for (id, size) in sizes {
        let is_full = page.len() == PAGE_MESSAGES || bytes + size > PAGE_BYTES;
        if is_full && !page.is_empty() {
            pages.push(mem::take(&mut page));
            bytes = 0;
        }
        page.push(id);
        bytes += size;
    }
    pages.extend((!page.is_empty()).then_some(page));
    pages
}

/// Text if it is UTF-8, otherwise its bytes.
fn body_json(body: &[u8]) -> Value {
    match std::str::from_utf8(body) {
        Ok(text) => json!(text),
        Err(_) => json!({ "base64": BASE64_STANDARD.encode(body) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_a_limited_number_of_messages_and_of_bytes() {
        let lengths = |sizes: &[i64]| {
            let pages = pages((0..).zip(sizes.iter().copied()));
            pages.iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(lengths(&[]), [0; 0]);
        assert_eq!(lengths(&[10; 2001]), [1000, 1000, 1]);
        assert_eq!(lengths(&[PAGE_BYTES / 2; 5]), [2, 2, 1]);
        assert_eq!(lengths(&[1, 100 * PAGE_BYTES, 1, 1]), [1, 1, 2]);
    }
}

//! Failed messages: lists, groups, details and counts.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Serialize;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::{
    domain::StatusKind,
    ports::{error::StoreError, failed_messages::FailedMessageFilter},
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
}

/// Dead letters with the same queue, type, reason and error pattern.
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
    pub duration_ms: i64,
    pub error: String,
    pub chain: Vec<String>,
}

/// An action of an operator.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the contract's own names, section 6")]
pub struct ActionRow {
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    pub who: String,
    pub what: String,
    pub why: Option<String>,
}

/// The number of failed messages in each status except `resolved`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the contract's own names, section 6")]
pub struct FailureCounts {
    pub retrying: i64,
    pub dead: i64,
    pub discarded: i64,
}

impl Views {
    /// Matching messages, newest first, after the message `cursor`.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn failed_messages(
        &self,
        filter: &FailedMessageFilter,
        limit: i64,
        cursor: Option<i64>,
    ) -> Result<Vec<FailedMessageSummary>, StoreError> {
        let messages = sqlx::query_as!(
            FailedMessageSummary,
            r#"select f.id, concat($11::text, '.', f.queue) as "queue!", f.type as kind, f.message_id, f.status, f.reason,
                      f.error, f.attempts, f.first_failed_at, f.last_failed_at, f.due_at
               from failed_messages f
               where failed_message_matches(f, $1, $2, $3, $4, $5, $6, $7, $8)
                 and ($9::bigint is null or (f.last_failed_at, f.id) <
                      (select c.last_failed_at, c.id from failed_messages c where c.id = $9))
               order by f.last_failed_at desc, f.id desc limit $10"#,
            filter.ids.as_deref(),
            filter.status.map(StatusKind::as_str),
            filter.queue,
            filter.kind,
            filter.reason,
            filter.grep,
            filter.since.map(|since| since.as_secs_f64()),
            filter.group,
            cursor,
            limit,
            self.namespace,
        );
        self.query(async |connection| messages.fetch_all(connection).await).await
    }

    /// Groups of dead letters; the largest is first.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn dead_letter_groups(&self) -> Result<Vec<FailureGroup>, StoreError> {
        let groups = sqlx::query_as!(
            FailureGroup,
            r#"select error_group as "group", concat($1::text, '.', queue) as "queue!", type as kind, reason,
                      error_pattern as error, count(*) as "count!",
                      min(first_failed_at) as "first_failed_at!", max(last_failed_at) as "last_failed_at!"
               from failed_messages where status = 'dead'
               group by error_group, queue, type, reason, error_pattern
               order by count(*) desc, error_group"#,
            self.namespace,
        );
        self.query(async |connection| groups.fetch_all(connection).await).await
    }

    /// A failed message in full.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn failed_message(&self, id: i64) -> Result<Option<FailedMessageDetail>, StoreError> {
        let filter = FailedMessageFilter { ids: Some(vec![id]), ..FailedMessageFilter::default() };
        let Some(summary) = self.failed_messages(&filter, 1, None).await?.pop() else { return Ok(None) };
        let row = sqlx::query!(
            r#"select properties::text as "properties!", body, queue, generation, error_group, held_because
               from failed_messages where id = $1"#,
            id
        );
        let history = sqlx::query_as!(
            AttemptRow,
            "select attempt, at, host, duration_ms, error, chain from failed_attempts
             where failed_message_id = $1 order by generation",
            id,
        );
        let actions = sqlx::query_as!(
            ActionRow,
            "select at, who, what, why from failed_actions where failed_message_id = $1 order by id",
            id,
        );
        let row = self.query(async |connection| row.fetch_one(connection).await).await?;
        let history = self.query(async |connection| history.fetch_all(connection).await).await?;
        let actions = self.query(async |connection| actions.fetch_all(connection).await).await?;
        let mut stored: Value = serde_json::from_str(&row.properties).unwrap_or_default();
        Ok(Some(FailedMessageDetail {
            summary,
            group: row.error_group,
            held_because: row.held_because,
            properties: stored["properties"].take(),
            headers: stored["headers"].take(),
            body: body_json(&row.body),
            history,
            actions,
            queue_name: row.queue,
            bytes: row.body,
            generation: row.generation,
        }))
    }

    /// The number of failed messages by status.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn failure_counts(&self) -> Result<FailureCounts, StoreError> {
        let counts = sqlx::query_as!(
            FailureCounts,
            r#"select count(*) filter (where status = 'retrying') as "retrying!",
                      count(*) filter (where status = 'dead') as "dead!",
                      count(*) filter (where status = 'discarded') as "discarded!"
               from failed_messages where status <> 'resolved'"#
        );
        self.query(async |connection| counts.fetch_one(connection).await).await
    }
}

/// Text if it is UTF-8, otherwise its bytes.
fn body_json(body: &[u8]) -> Value {
    match std::str::from_utf8(body) {
        Ok(text) => json!(text),
        Err(_) => json!({ "base64": BASE64_STANDARD.encode(body) }),
    }
}

//! The ledger of failures, as people read it.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Serialize;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::ports::{error::StoreError, failed_messages::FailedMessageFilter};

use super::handle::Views;

/// One failed message, in short.
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

/// Dead letters of one cause.
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

/// One failed message with all that is known of it.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the contract's own names, section 6")]
pub struct FailedMessageDetail {
    #[serde(flatten)]
    pub letter: FailedMessageSummary,
    pub group: String,
    /// Why its retry could not be published yet.
    pub held_because: Option<String>,
    pub properties: Value,
    pub headers: Value,
    pub body: Value,
    pub history: Vec<AttemptRow>,
    pub actions: Vec<ActionRow>,
    /// The bytes of the body.
    #[serde(skip)]
    pub bytes: Vec<u8>,
    /// Goes up with every attempt and every retry.
    #[serde(skip)]
    pub generation: i64,
}

/// One attempt.
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

/// What an operator did.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the contract's own names, section 6")]
pub struct ActionRow {
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    pub who: String,
    pub what: String,
    pub why: Option<String>,
}

/// How many failed messages there are in each status that an operator cares about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the contract's own names, section 6")]
pub struct FailureCounts {
    pub retrying: i64,
    pub dead: i64,
    pub discarded: i64,
}

impl Views {
    /// Failed messages, newest first, after the one that `cursor` names.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn dead_letters(
        &self,
        filter: &FailedMessageFilter,
        limit: i64,
        cursor: Option<i64>,
    ) -> Result<Vec<FailedMessageSummary>, StoreError> {
        let messages = sqlx::query_as!(
            FailedMessageSummary,
            r#"select id, concat($11::text, '.', queue) as "queue!", type as kind, message_id, status, reason, error,
                      attempts, first_failed_at, last_failed_at, due_at
               from failed_messages
               where ($1::bigint[] is null or id = any($1)) and ($2::text is null or status = $2)
                 and ($3::text is null or queue = $3) and ($4::text is null or type = $4)
                 and ($5::text is null or reason = $5)
                 and ($6::text is null or strpos(lower(concat(error, ' ', message_id)), lower($6)) > 0)
                 and ($7::double precision is null or last_failed_at > now() - make_interval(secs => $7))
                 and ($8::text is null or error_group = $8)
                 and ($9::bigint is null or (last_failed_at, id) <
                      (select c.last_failed_at, c.id from failed_messages c where c.id = $9))
               order by last_failed_at desc, id desc limit $10"#,
            filter.ids.as_deref(),
            filter.status,
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

    /// Dead letters by cause, the most frequent first.
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

    /// All that is known of one failed message.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn dead_letter(&self, id: i64) -> Result<Option<FailedMessageDetail>, StoreError> {
        let filter = FailedMessageFilter { ids: Some(vec![id]), ..FailedMessageFilter::default() };
        let Some(letter) = self.dead_letters(&filter, 1, None).await?.pop() else { return Ok(None) };
        let row = sqlx::query!(
            r#"select properties::text as "properties!", body, generation, error_group, held_because from failed_messages
               where id = $1"#,
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
        let mut kept: Value = serde_json::from_str(&row.properties).unwrap_or_default();
        Ok(Some(FailedMessageDetail {
            letter,
            group: row.error_group,
            held_because: row.held_because,
            properties: kept["properties"].take(),
            headers: kept["headers"].take(),
            body: readable(&row.body),
            history,
            actions,
            bytes: row.body,
            generation: row.generation,
        }))
    }

    /// Failed messages by status.
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

/// Text where it is text; otherwise its bytes, so that nothing is made up.
fn readable(body: &[u8]) -> Value {
    match std::str::from_utf8(body) {
        Ok(text) => json!(text),
        Err(_) => json!({ "base64": BASE64_STANDARD.encode(body) }),
    }
}

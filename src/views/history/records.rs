//! What the tables have about messages. Each query finds its rows by an index.

use serde::Deserialize;
use time::OffsetDateTime;

use crate::{ports::error::StoreError, views::handle::Views};

/// The most events of a history: one command may have caused very many.
pub(super) const MAX_EVENTS: usize = 1_000;

/// A handled message, from the inbox.
#[derive(Debug)]
pub(super) struct Handled {
    pub(super) queue: String,
    pub(super) handled_at: OffsetDateTime,
}

/// A failed message.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) id: i64,
    pub(super) queue: String,
    pub(super) message_id: Option<String>,
    pub(super) body: Vec<u8>,
    pub(super) status: String,
    pub(super) reason: Option<String>,
    pub(super) error_group: String,
    pub(super) attempts: i32,
    pub(super) first_failed_at: OffsetDateTime,
    pub(super) last_failed_at: OffsetDateTime,
    pub(super) due_at: Option<OffsetDateTime>,
    pub(super) published_at: Option<OffsetDateTime>,
    pub(super) overtaken_by: Option<String>,
}

/// A failed attempt.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) at: OffsetDateTime,
    pub(super) number: i32,
    pub(super) host: String,
    pub(super) version: Option<String>,
    pub(super) error: String,
    pub(super) trace_id: Option<String>,
}

/// An action of an operator.
#[derive(Debug)]
pub(super) struct Action {
    pub(super) at: OffsetDateTime,
    pub(super) who: String,
    pub(super) what: String,
    pub(super) why: Option<String>,
}

/// An event, published or not.
#[derive(Debug)]
pub(super) struct EventRecord {
    pub(super) name: String,
    pub(super) sku: String,
    pub(super) sequence: i64,
    pub(super) body: String,
    pub(super) committed_at: OffsetDateTime,
    pub(super) published_at: Option<OffsetDateTime>,
    pub(super) unroutable: Option<bool>,
    pub(super) refused: Option<String>,
    pub(super) refused_at: Option<OffsetDateTime>,
}

/// The line that a body names.
#[derive(Debug, Deserialize)]
pub(super) struct NamedLine {
    pub(super) orderid: String,
    pub(super) sku: String,
    #[serde(default)]
    pub(super) qty: Option<serde_json::Value>,
    #[serde(default)]
    pub(super) batchref: Option<String>,
}

/// Where a line is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineState {
    /// The order.
    pub orderid: String,
    /// The SKU.
    pub sku: String,
    /// Its batch; none if it is a backorder.
    pub batchref: Option<String>,
}

impl Views {
    /// The time of the database.
    pub(super) async fn now(&self) -> Result<OffsetDateTime, StoreError> {
        let now = sqlx::query_scalar!(r#"select now() as "now!""#);
        self.query(async |connection| now.fetch_one(connection).await).await
    }

    pub(super) async fn handled(
        &self,
        message_id: &str,
        queues: &[String],
    ) -> Result<Vec<Handled>, StoreError> {
        let handled = sqlx::query_as!(
            Handled,
            "select queue, handled_at from inbox where queue = any($1) and message_id = $2 order by queue",
            queues,
            message_id,
        );
        self.query(async |connection| handled.fetch_all(connection).await).await
    }

    pub(super) async fn failed_with_message_id(
        &self,
        message_id: &str,
        queues: &[String],
    ) -> Result<Vec<Failed>, StoreError> {
        let failed = sqlx::query_as!(
            Failed,
            "select id, queue, message_id, body, status, reason, error_group, attempts, first_failed_at,
                    last_failed_at, due_at, published_at, overtaken_by
             from failed_messages where queue = any($1) and coalesce(message_id, '') = $2 order by id",
            queues,
            message_id,
        );
        self.query(async |connection| failed.fetch_all(connection).await).await
    }

    pub(super) async fn failed_with_id(&self, id: i64) -> Result<Option<Failed>, StoreError> {
        let failed = sqlx::query_as!(
            Failed,
            "select id, queue, message_id, body, status, reason, error_group, attempts, first_failed_at,
                    last_failed_at, due_at, published_at, overtaken_by
             from failed_messages where id = $1",
            id,
        );
        self.query(async |connection| failed.fetch_optional(connection).await).await
    }

    /// The failed messages with keys from `first` to below `end`, in the order of bytes.
    pub(super) async fn failed_with_keys(&self, first: &str, end: &str) -> Result<Vec<Failed>, StoreError> {
        let failed = sqlx::query_as!(
            Failed,
            "select id, queue, message_id, body, status, reason, error_group, attempts, first_failed_at,
                    last_failed_at, due_at, published_at, overtaken_by
             from failed_messages where key ~>=~ $1 and key ~<~ $2 order by id",
            first,
            end,
        );
        self.query(async |connection| failed.fetch_all(connection).await).await
    }

    pub(super) async fn attempts_of(&self, id: i64) -> Result<Vec<Attempt>, StoreError> {
        let attempts = sqlx::query_as!(
            Attempt,
            "select at, attempt as number, host, version, error, trace_id from failed_attempts
             where failed_message_id = $1 order by generation",
            id,
        );
        self.query(async |connection| attempts.fetch_all(connection).await).await
    }

    pub(super) async fn actions_of(&self, id: i64) -> Result<Vec<Action>, StoreError> {
        let actions = sqlx::query_as!(
            Action,
            "select at, who, what, why from failed_actions where failed_message_id = $1 order by id",
            id,
        );
        self.query(async |connection| actions.fetch_all(connection).await).await
    }

    /// The events of a message that was handled at one of these times, which are those of its transactions.
    pub(super) async fn events_of(
        &self,
        message_id: &str,
        times: &[OffsetDateTime],
    ) -> Result<Vec<EventRecord>, StoreError> {
        let limit = i64::try_from(MAX_EVENTS + 1).unwrap_or(i64::MAX);
        let unpublished = sqlx::query_as!(
            EventRecord,
            r#"select name, sku, sequence, body, committed_at, null::timestamptz as published_at, null::boolean as unroutable,
                      refused, refused_at
               from outbox where committed_at = any($1) and causation_id = $2 order by id limit $3"#,
            times,
            message_id,
            limit,
        );
        let mut events = self.query(async |connection| unpublished.fetch_all(connection).await).await?;
        let published = sqlx::query_as!(
            EventRecord,
            r#"select name, sku, sequence, body, committed_at, published_at as "published_at?",
                      unroutable as "unroutable?", null::text as refused, null::timestamptz as refused_at
               from published_events where committed_at = any($1) and causation_id = $2
               order by sku, sequence limit $3"#,
            times,
            message_id,
            limit,
        );
        events.extend(self.query(async |connection| published.fetch_all(connection).await).await?);
        events.sort_by(|one, other| (&one.sku, one.sequence).cmp(&(&other.sku, other.sequence)));
        Ok(events)
    }

    /// The lines of these orders and SKUs that exist.
    pub(super) async fn line_states(
        &self,
        orderids: &[String],
        skus: &[String],
    ) -> Result<Vec<LineState>, StoreError> {
        let lines = sqlx::query_as!(
            LineState,
            r#"select asked.orderid as "orderid!", asked.sku as "sku!", line.batchref
               from unnest($1::text[], $2::text[]) with ordinality as asked (orderid, sku, place)
               cross join lateral (
                   select v.batchref from allocations_view v
                   where v.orderid = asked.orderid and v.sku = asked.sku offset 0
               ) as line
               order by asked.place"#,
            orderids,
            skus,
        );
        self.query(async |connection| lines.fetch_all(connection).await).await
    }

    /// All lines of an order.
    pub(super) async fn lines_of_order(&self, orderid: &str) -> Result<Vec<LineState>, StoreError> {
        let lines = sqlx::query_as!(
            LineState,
            r#"select orderid, sku, batchref from allocations_view where orderid = $1 order by sku collate "C""#,
            orderid,
        );
        self.query(async |connection| lines.fetch_all(connection).await).await
    }
}

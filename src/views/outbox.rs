//! The outbox, as people read it.

use serde::Serialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;

use super::Views;

/// How much is committed and not yet published.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OutboxDepth {
    /// Rows.
    pub pending: i64,
    /// The age of the oldest, in seconds; none if there is none.
    pub oldest_seconds: Option<f64>,
    /// How many of them the broker refused; they and what is behind them wait for an operator.
    pub set_aside: i64,
    /// Events that were published and that no queue wanted, ever.
    pub unroutable: i64,
}

/// An unpublished event.
#[derive(Debug, Serialize)]
pub struct UnpublishedEvent {
    /// Its place in the outbox.
    pub id: i64,
    /// Its public name.
    #[serde(rename = "type")]
    pub name: String,
    /// Its id on the wire.
    pub message_id: String,
    /// Its product.
    pub sku: String,
    /// Its place in the product's history.
    pub sequence: i64,
    /// When it happened.
    #[serde(with = "time::serde::rfc3339")]
    pub committed_at: OffsetDateTime,
    /// Why the broker refused it, if it did.
    pub refused: Option<String>,
    /// When that was.
    #[serde(with = "time::serde::rfc3339::option")]
    pub refused_at: Option<OffsetDateTime>,
    /// How many later events of its product wait behind it.
    pub behind: i64,
    /// What ties it to others.
    pub correlation_id: String,
    /// The command it follows from.
    pub causation_id: String,
    /// Its JSON.
    pub body: Box<RawValue>,
}

impl Views {
    /// How much the outbox holds.
    ///
    /// # Errors
    /// The database is away.
    pub async fn outbox_depth(&self) -> Result<OutboxDepth, sqlx::Error> {
        sqlx::query_as!(
            OutboxDepth,
            r#"select (select count(*) from outbox) as "pending!",
                      (select extract(epoch from now() - committed_at)::double precision
                       from outbox order by id limit 1) as oldest_seconds,
                      (select count(*) from outbox where refused is not null) as "set_aside!",
                      unroutable
               from relay_state"#
        )
        .fetch_one(&self.pool)
        .await
    }

    /// Unpublished events, the oldest first: those that were set aside, or all, or one.
    ///
    /// # Errors
    /// The database is away.
    pub async fn unpublished_events(
        &self,
        id: Option<i64>,
        all: bool,
        limit: i64,
    ) -> Result<Vec<UnpublishedEvent>, sqlx::Error> {
        let rows = sqlx::query!(
            r#"select id, name, event_id, sku, sequence, committed_at, refused, refused_at, correlation_id, causation_id,
                      body,
                      case when refused is null then 0
                      else (select count(*) from outbox later where later.sku = o.sku and later.id > o.id)
                      end as "behind!"
               from outbox o
               where ($1::bigint is null or id = $1) and ($2 or $1::bigint is not null or refused is not null)
               order by id limit $3"#,
            id,
            all,
            limit,
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|row| {
                Ok(UnpublishedEvent {
                    id: row.id,
                    name: row.name,
                    message_id: row.event_id.to_string(),
                    sku: row.sku,
                    sequence: row.sequence,
                    committed_at: row.committed_at,
                    refused: row.refused,
                    refused_at: row.refused_at,
                    behind: row.behind,
                    correlation_id: row.correlation_id,
                    causation_id: row.causation_id,
                    body: RawValue::from_string(row.body)
                        .map_err(|error| sqlx::Error::Decode(error.into()))?,
                })
            })
            .collect()
    }
}

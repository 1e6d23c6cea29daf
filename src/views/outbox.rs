//! The unpublished events.

use serde::Serialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;

use crate::ports::error::StoreError;

use super::handle::Views;

/// The number of committed, unpublished events.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OutboxDepth {
    /// Unpublished events.
    pub pending: i64,
    /// The age of the oldest, in seconds.
    pub oldest_seconds: Option<f64>,
    /// Parked events: the broker rejected them, and they wait for an operator.
    pub set_aside: i64,
    /// Events that were published while no queue was bound for them, in total.
    pub unroutable: i64,
    /// The types of the events that the broker nacks, because a subscriber's queue is full.
    pub nacked_events: Vec<String>,
    /// Since when it nacks events.
    #[serde(with = "time::serde::rfc3339::option")]
    pub nacked_since: Option<OffsetDateTime>,
}

/// An unpublished event.
#[derive(Debug, Serialize)]
pub struct UnpublishedEvent {
    /// Its position in the outbox.
    pub id: i64,
    /// Its type.
    #[serde(rename = "type")]
    pub name: String,
    /// Its message id.
    pub message_id: String,
    /// Its SKU.
    pub sku: String,
    /// Its sequence number.
    pub sequence: i64,
    /// The time of its commit.
    #[serde(with = "time::serde::rfc3339")]
    pub committed_at: OffsetDateTime,
    /// Why the broker rejected it, if it did.
    pub refused: Option<String>,
    /// The time of the rejection.
    #[serde(with = "time::serde::rfc3339::option")]
    pub refused_at: Option<OffsetDateTime>,
    /// The number of later events of its SKU that wait for it.
    pub behind: i64,
    /// Its correlation id.
    pub correlation_id: String,
    /// The message id of its command.
    pub causation_id: String,
    /// Its JSON.
    pub body: Box<RawValue>,
}

/// The relay that publishes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RelayLeader {
    /// The process id of its session.
    pub pid: i32,
    /// The role of its session.
    pub role: String,
    /// The application name of its session.
    pub application: String,
    /// The host that it connects from, unless this role may not see it.
    pub address: Option<String>,
    /// When it became the leader.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
}

impl Views {
    /// The relay that publishes; `None` if none does.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn relay_leader(&self) -> Result<Option<RelayLeader>, StoreError> {
        let leader = sqlx::query_as!(
            RelayLeader,
            r#"select session.pid as "pid!", coalesce(session.usename, '') as "role!",
                      session.application_name as "application!", host(session.client_addr) as address,
                      led_since as "since!"
               from relay_state join pg_stat_activity session
                 on session.pid = led_by_pid and session.usesysid = led_by_role
                and session.application_name = led_by_application"#,
        );
        self.query(async |connection| leader.fetch_optional(connection).await).await
    }

    /// The number of unpublished events.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn outbox_depth(&self) -> Result<OutboxDepth, StoreError> {
        let depth = sqlx::query_as!(
            OutboxDepth,
            r#"select (select count(*) from outbox) as "pending!",
                      (select extract(epoch from now() - committed_at)::double precision
                       from outbox order by id limit 1) as oldest_seconds,
                      (select count(*) from outbox where refused is not null) as "set_aside!",
                      unroutable, nacked_events, nacked_since
               from relay_state"#
        );
        self.query(async |connection| depth.fetch_one(connection).await).await
    }

    /// Unpublished events, oldest first: the parked ones, all of them, or one.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn unpublished_events(
        &self,
        id: Option<i64>,
        all: bool,
        limit: i64,
    ) -> Result<Vec<UnpublishedEvent>, StoreError> {
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
        );
        self.query(async |connection| {
            let rows = rows.fetch_all(connection).await?;
            let events = rows.into_iter().map(|row| {
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
            });
            events.collect()
        })
        .await
    }
}

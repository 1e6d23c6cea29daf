//! Failed messages with what a retry of them would publish.

use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    domain::FailedMessage,
    ports::{
        dry_run::{RetriableMessage, RetriableMessages},
        failed_messages::DueRetry,
    },
};

use super::find::decode_status;

struct Row {
    id: i64,
    queue: String,
    message_id: Option<String>,
    kind: String,
    body: Vec<u8>,
    original: Vec<u8>,
    edited: bool,
    secret: Uuid,
    status: String,
    reason: Option<String>,
    attempts: i32,
    generation: i64,
    error: String,
    overtaken_by: Option<String>,
    handled: bool,
    scheduled_recently: bool,
    behind: Option<i64>,
    overtakes: Option<i64>,
}

impl Row {
    fn decode(self) -> Result<RetriableMessage, sqlx::Error> {
        Ok(RetriableMessage {
            failed: FailedMessage {
                id: self.id,
                status: decode_status(&self.status, self.reason.as_deref())?,
                attempts: u32::try_from(self.attempts).unwrap_or_default(),
                generation: self.generation,
                handled: self.handled,
                overtaken: self.overtaken_by.is_some(),
                scheduled_recently: self.scheduled_recently,
            },
            error: self.error,
            overtaken_by: self.overtaken_by,
            behind: self.behind,
            overtakes: self.overtakes,
            copy: DueRetry {
                id: self.id,
                generation: self.generation,
                queue: self.queue,
                message_id: self.message_id,
                kind: self.kind,
                body: self.body,
                original: self.original,
                edited: self.edited,
                secret: self.secret,
            },
        })
    }
}

/// Messages in the order of their ids; those that do not exist are left out.
pub(in crate::adapters::postgres) async fn retriable(
    connection: &mut PgConnection,
    ids: &[i64],
) -> Result<RetriableMessages, sqlx::Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"select f.id, f.queue, f.message_id, f.type as kind, f.body, f.original, f.edited, f.secret, f.status, f.reason,
                  f.attempts, f.generation, f.error, f.overtaken_by,
                  exists (select from inbox i where i.queue = f.queue and i.message_id = f.message_id
                          and i.fingerprint = f.fingerprint and coalesce(i.type, f.type) = f.type) as "handled!",
                  (coalesce(f.published_at, f.due_at)
                   between clock_timestamp() - interval '1 minute' and clock_timestamp()) is true
                      as "scheduled_recently!",
                  (select e.id from failed_messages e where e.key = f.key and e.status in ('retrying', 'waiting')
                   and e.id < f.id order by e.id limit 1) as behind,
                  (select e.id from failed_messages e where e.key = f.key and e.status in ('dead', 'discarded')
                   and e.id < f.id order by e.id limit 1) as overtakes
           from failed_messages f where f.id = any($1) order by f.id"#,
        ids,
    );
    let rows = rows.fetch_all(&mut *connection).await?;
    let as_of: OffsetDateTime =
        sqlx::query_scalar!(r#"select now() as "now!""#).fetch_one(connection).await?;
    let messages = rows.into_iter().map(Row::decode).collect::<Result<_, _>>()?;
    Ok(RetriableMessages { as_of, messages })
}

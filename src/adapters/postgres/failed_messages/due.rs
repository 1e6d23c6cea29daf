//! Retries as the relay needs them: which are due, and what happened to their copies.
//!
//! A copy belongs to a generation of its message. What happened to a copy of an earlier generation changes nothing.

use std::time::Duration;

use sqlx::{Connection as _, PgConnection};

use crate::{
    domain::{OrderingKey, Reason},
    ports::failed_messages::{DueRetry, rejected_retry_error},
};

use super::order;

/// The delay of a retry that could not be published.
const DEFER_BY: Duration = Duration::from_secs(5);

/// Failed messages whose next attempt is due; the one that is due longest is first.
pub(in crate::adapters::postgres) async fn due(
    connection: &mut PgConnection,
    at_most: u32,
    at_most_bytes: usize,
) -> Result<Vec<DueRetry>, sqlx::Error> {
    sqlx::query_as!(
        DueRetry,
        r#"select f.id, f.generation, f.queue, f.message_id, f.type as kind, f.body, f.original, f.edited, f.secret
           from (
               select id, due_at, sum(octet_length(body)) over (order by due_at, id) - octet_length(body) as before
               from (
                   select id, due_at, body from failed_messages
                   where status = 'retrying' and published_at is null and due_at <= now()
                   order by due_at limit $1
               ) as next
           ) as sized
           join failed_messages f on f.id = sized.id
           where sized.before = 0 or sized.before + octet_length(f.body) <= $2
           order by sized.due_at, f.id"#,
        i64::from(at_most),
        i64::try_from(at_most_bytes).unwrap_or(i64::MAX),
    )
    .fetch_all(connection)
    .await
}

/// Notes that copies were published.
pub(in crate::adapters::postgres) async fn published(
    connection: &mut PgConnection,
    retries: &[&DueRetry],
) -> Result<(), sqlx::Error> {
    let (ids, generations) = copies(retries);
    sqlx::query!(
        "with locked as (
             select f.id from unnest($1::bigint[], $2::bigint[]) as done (id, generation)
             cross join lateral (
                 select id, generation, status from failed_messages where id = done.id limit 1 for update
             ) as f
             where f.generation = done.generation and f.status = 'retrying'
         )
         update failed_messages set published_at = now(), held_because = null
         where id = any(array(select id from locked))",
        &ids,
        &generations,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Notes why copies could not be published, and defers them.
pub(in crate::adapters::postgres) async fn defer(
    connection: &mut PgConnection,
    retries: &[&DueRetry],
    reason: &str,
) -> Result<(), sqlx::Error> {
    let (ids, generations) = copies(retries);
    sqlx::query!(
        "with locked as (
             select f.id from unnest($1::bigint[], $2::bigint[]) as held (id, generation)
             cross join lateral (
                 select id, generation, status from failed_messages where id = held.id limit 1 for update
             ) as f
             where f.generation = held.generation and f.status = 'retrying'
         )
         update failed_messages set held_because = $3, due_at = now() + make_interval(secs => $4)
         where id = any(array(select id from locked))",
        &ids,
        &generations,
        reason,
        DEFER_BY.as_secs_f64(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Notes that a copy can never be published: its message is dead.
pub(in crate::adapters::postgres) async fn reject(
    connection: &mut PgConnection,
    retry: &DueRetry,
    reason: &str,
) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let key = sqlx::query_scalar!(
        "update failed_messages
         set status = 'dead', reason = $4, error = $3, error_pattern = $3,
             error_group = left(encode(sha256(convert_to(
                 queue || E'\\n' || type || E'\\n' || $4::text || E'\\n' || $3::text, 'UTF8')), 'hex'), 16),
             due_at = null, last_failed_at = now()
         where id = $1 and generation = $2 and status = 'retrying'
         returning key",
        retry.id,
        retry.generation,
        rejected_retry_error(reason),
        Reason::InvalidMessage.as_str(),
    );
    let key = key.fetch_optional(&mut *transaction).await?.flatten().map(OrderingKey::from_stored);
    order::release(&mut transaction, key.as_slice()).await?;
    transaction.commit().await
}

/// The columns of a set-based statement, in the order of the ids, in which it locks the rows. It looks each row up by its id
/// alone: with more conditions, a plan that was made while the table was small reads a whole partial index.
fn copies(retries: &[&DueRetry]) -> (Vec<i64>, Vec<i64>) {
    let mut copies: Vec<_> = retries.iter().map(|retry| (retry.id, retry.generation)).collect();
    copies.sort_unstable();
    copies.into_iter().unzip()
}

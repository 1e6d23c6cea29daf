//! Writes of a unit of work: the messages that failed, and those that were handled after all.

use std::sync::Arc;

use sqlx::PgConnection;

use crate::domain::{NewAttempt, OrderingKey, Reason, RetryDecision, Status};

/// Records failed attempts. The `where` of the statement is [`FailedMessage::record`](crate::domain::FailedMessage::record)
/// in SQL, so that a failure takes one statement.
pub(in crate::adapters::postgres) async fn record(
    connection: &mut PgConnection,
    queue: &str,
    failures: &[NewAttempt],
) -> Result<(), sqlx::Error> {
    for failure in failures {
        record_one(connection, queue, failure).await?;
    }
    Ok(())
}

/// The seconds until it is tried again.
fn delay(next: RetryDecision) -> Option<f64> {
    match next {
        RetryDecision::Retry(delay) | RetryDecision::Postpone(delay) => Some(delay.as_secs_f64()),
        RetryDecision::Dead(_) | RetryDecision::Wait => None,
    }
}

async fn record_one(
    connection: &mut PgConnection,
    queue: &str,
    failure: &NewAttempt,
) -> Result<(), sqlx::Error> {
    let status = Status::from(failure.next);
    let attempts = i32::try_from(failure.attempts).unwrap_or(i32::MAX);
    sqlx::query!(
        "with recorded as (
             insert into failed_messages as known (queue, message_id, fingerprint, type, body, properties, original,
                 status, reason, error, error_pattern, error_group, attempts, due_at, key, overtaken_by)
             values ($1, $2, $3, $4, $5, $6::text::json, $7, $8, $9, $10, $11, $12, $13,
                 clock_timestamp() + make_interval(secs => $14), $19, $20)
             on conflict (queue, coalesce(message_id, ''), type, fingerprint) do update
             set status = excluded.status, reason = excluded.reason, error = excluded.error,
                 error_pattern = excluded.error_pattern, error_group = excluded.error_group,
                 attempts = excluded.attempts, generation = known.generation + 1, due_at = excluded.due_at,
                 last_failed_at = now(), published_at = null, ended_at = null,
                 key = coalesce(excluded.key, known.key),
                 overtaken_by = coalesce(excluded.overtaken_by, case when $15::bigint > 0 then known.overtaken_by end)
             where case when $15::bigint = 0 then known.status not in ('retrying', 'waiting')
                   else known.status = 'retrying' and known.generation = $15 end
             returning id, generation
         )
         insert into failed_attempts (failed_message_id, generation, attempt, host, duration_ms, error, chain)
         select id, generation, $13, $16, $17, $10, $18 from recorded where $21",
        queue,
        failure.key.message_id.as_deref(),
        &failure.key.body_hash.0[..],
        failure.key.kind,
        &*failure.body,
        failure.properties,
        failure.original,
        status.kind().as_str(),
        status.reason().map(Reason::as_str),
        failure.error,
        failure.error_pattern,
        failure.error_group,
        attempts,
        delay(failure.next),
        failure.generation,
        failure.host,
        i64::try_from(failure.duration.as_millis()).unwrap_or(i64::MAX),
        &failure.chain,
        failure.ordering_key.as_ref().map(OrderingKey::as_str),
        failure.overtaken_by.as_deref(),
        failure.next.was_attempted(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Resolves messages that were handled: each row whose queue, id, type and body the inbox has. The rows of each id are
/// looked up separately, because a list would filter all failed messages of the queue; `offset 0` keeps the planner from
/// joining them. The inbox is compared with the row itself, again after a lock wait if an operator edited the row.
pub(in crate::adapters::postgres) async fn resolve(
    connection: &mut PgConnection,
    queue: &str,
    handled: &[Arc<str>],
) -> Result<(), sqlx::Error> {
    if handled.is_empty() {
        return Ok(());
    }
    let ids: Vec<_> = handled.iter().map(|id| &**id).collect();
    sqlx::query!(
        "update failed_messages as failed
         set status = 'resolved', reason = null, due_at = null, ended_at = now()
         where failed.status <> 'resolved' and failed.id = any(array(
             select same_id.id from pg_catalog.unnest($2::text[]) as handled (message_id)
             cross join lateral (
                 select f.id from failed_messages f
                 where f.queue = $1 and coalesce(f.message_id, '') = handled.message_id offset 0
             ) as same_id))
           and exists (select from inbox i where i.queue = failed.queue and i.message_id = failed.message_id
                       and i.fingerprint = failed.fingerprint and coalesce(i.type, failed.type) = failed.type
                       offset 0)",
        queue,
        &ids as &[&str],
    )
    .execute(connection)
    .await?;
    Ok(())
}

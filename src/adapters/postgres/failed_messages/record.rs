//! Writes of a unit of work: the messages that failed, and those that were handled after all.

use std::{collections::HashSet, sync::Arc};

use sqlx::PgConnection;

use crate::domain::{FailedMessageKey, NewAttempt, OrderingKey, Reason, RetryDecision, Status};

/// The largest number of attempts that one statement records.
const ROWS_AT_ONCE: usize = 200;
/// The largest number of bytes in their bodies, unless a single one has more.
const BYTES_AT_ONCE: usize = 1 << 20;

/// Records failed attempts, in their order.
pub(in crate::adapters::postgres) async fn record(
    connection: &mut PgConnection,
    queue: &str,
    failures: &[NewAttempt],
) -> Result<(), sqlx::Error> {
    let mut left = failures;
    while !left.is_empty() {
        let (now, later) = left.split_at(at_once(left));
        record_distinct(connection, queue, now).await?;
        left = later;
    }
    Ok(())
}

/// How many of the attempts one statement can record: it cannot change the row of a message twice.
fn at_once(failures: &[NewAttempt]) -> usize {
    let (mut keys, mut bytes) = (HashSet::new(), 0);
    for failure in failures {
        let FailedMessageKey { message_id, kind, body_hash } = &failure.key;
        bytes += failure.body.len();
        let is_full = keys.len() == ROWS_AT_ONCE || bytes > BYTES_AT_ONCE;
        if is_full && !keys.is_empty() || !keys.insert((message_id, kind, body_hash.0)) {
            break;
        }
    }
    keys.len()
}

/// The seconds until it is tried again.
fn delay(next: RetryDecision) -> Option<f64> {
    match next {
        RetryDecision::Retry(delay) | RetryDecision::Postpone(delay) => Some(delay.as_secs_f64()),
        RetryDecision::Dead(_) | RetryDecision::Wait => None,
    }
}

/// The `where` of the statement is [`FailedMessage::record`](crate::domain::FailedMessage::record) in SQL, so that failures
/// of one transaction take one statement. New rows have ids in the order of the failures.
async fn record_distinct(
    connection: &mut PgConnection,
    queue: &str,
    failures: &[NewAttempt],
) -> Result<(), sqlx::Error> {
    let status = |failure: &NewAttempt| Status::from(failure.next);
    sqlx::query_file!(
        "src/adapters/postgres/failed_messages/record.sql",
        queue,
        &column(failures, |of| of.key.message_id.as_deref()) as &[Option<&str>],
        &column(failures, |of| &of.key.body_hash.0[..]) as &[&[u8]],
        &column(failures, |of| &*of.key.kind) as &[&str],
        &column(failures, |of| &*of.body) as &[&[u8]],
        &column(failures, |of| &*of.properties) as &[&str],
        &column(failures, |of| &*of.original) as &[&[u8]],
        &column(failures, |of| status(of).kind().as_str()) as &[&str],
        &column(failures, |of| status(of).reason().map(Reason::as_str)) as &[Option<&str>],
        &column(failures, |of| &*of.error) as &[&str],
        &column(failures, |of| &*of.error_pattern) as &[&str],
        &column(failures, |of| &*of.error_group) as &[&str],
        &column(failures, |of| i32::try_from(of.attempts).unwrap_or(i32::MAX)),
        &column(failures, |of| delay(of.next)) as &[Option<f64>],
        &column(failures, |of| of.generation),
        &column(failures, |of| &*of.host) as &[&str],
        &column(failures, |of| i64::try_from(of.duration.as_millis()).unwrap_or(i64::MAX)),
        &column(failures, |of| serde_json::Value::from(&of.chain[..]).to_string()),
        &column(failures, |of| of.ordering_key.as_ref().map(OrderingKey::as_str)) as &[Option<&str>],
        &column(failures, |of| of.overtaken_by.as_deref()) as &[Option<&str>],
        &column(failures, |of| of.next.was_attempted()),
        &column(failures, |of| of.trace_id.as_deref()) as &[Option<&str>],
        env!("CARGO_PKG_VERSION"),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// One value of each attempt, in their order.
fn column<'a, T>(failures: &'a [NewAttempt], value: impl Fn(&'a NewAttempt) -> T) -> Vec<T> {
    failures.iter().map(value).collect()
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

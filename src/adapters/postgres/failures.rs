//! The ledger of failures, as the unit of work and the relay use it.

use std::{collections::HashMap, sync::Arc};

use sqlx::PgConnection;

use crate::{
    domain::FailedMessageKey,
    ports::{
        failed_messages::{DueRetry, NewAttempt, RetryDecision},
        queue::RetryMark,
        store::RetryCheck,
    },
};

/// How many attempts the ledger counts for messages that are being retried, in the order given; held against others
/// who fail them. Each is looked for by itself, as in [`resolve`].
pub(super) async fn attempts(
    connection: &mut PgConnection,
    queue: &str,
    keys: &[FailedMessageKey],
) -> Result<Vec<u32>, sqlx::Error> {
    let ids: Vec<_> = keys.iter().map(|key| key.message_id.as_deref().unwrap_or_default()).collect();
    let kinds: Vec<_> = keys.iter().map(|key| key.kind.as_str()).collect();
    let fingerprints: Vec<_> = keys.iter().map(|key| &key.body_hash.0[..]).collect();
    let rows = sqlx::query!(
        r#"select coalesce(message_id, '') as "message_id!", type as kind, fingerprint,
                  case when status = 'retrying' then attempts else 0 end as "attempts!"
           from failed_messages
           where id = any(array(
               select (select f.id from failed_messages f where f.queue = $1
                       and coalesce(f.message_id, '') = asked.message_id and f.type = asked.type
                       and f.fingerprint = asked.fingerprint)
               from unnest($2::text[], $3::text[], $4::bytea[]) as asked (message_id, type, fingerprint)))
           order by id for update"#,
        queue,
        &ids as &[&str],
        &kinds as &[&str],
        &fingerprints as &[&[u8]],
    )
    .fetch_all(connection)
    .await?;
    let known: HashMap<_, _> = rows
        .iter()
        .map(|row| ((row.message_id.as_str(), row.kind.as_str(), &row.fingerprint[..]), row.attempts))
        .collect();
    let of = |key: &FailedMessageKey| {
        let id = key.message_id.as_deref().unwrap_or_default();
        known.get(&(id, key.kind.as_str(), &key.body_hash.0[..])).copied().unwrap_or(0)
    };
    Ok(keys.iter().map(|key| u32::try_from(of(key)).unwrap_or_default()).collect())
}

/// Whether copies are current, in the order given. With `lock` their failed messages are locked against operators until the
/// end of the transaction; without, the relay and operators do not wait for a transaction that takes its time.
pub(super) async fn check_retries(
    connection: &mut PgConnection,
    queue: &str,
    marks: &[RetryMark],
    lock: bool,
) -> Result<Vec<RetryCheck>, sqlx::Error> {
    let ids: Vec<_> = marks.iter().map(|mark| mark.failed_message_id).collect();
    if lock {
        let locked = sqlx::query!(
            "select from failed_messages where id = any($1) and queue = $2 order by id for update",
            &ids,
            queue,
        );
        locked.execute(&mut *connection).await?;
    }
    let rows = sqlx::query!(
        r#"select id, generation, secret, status = 'retrying' as "is_retrying!"
           from failed_messages where id = any($1) and queue = $2"#,
        &ids,
        queue,
    )
    .fetch_all(connection)
    .await?;
    let check = |mark: &RetryMark| match rows.iter().find(|row| row.id == mark.failed_message_id) {
        Some(row) if row.secret != mark.secret => RetryCheck::Unknown,
        Some(row) if row.is_retrying && row.generation == mark.generation => RetryCheck::Current,
        Some(_) => RetryCheck::Outdated,
        None => RetryCheck::Unknown,
    };
    Ok(marks.iter().map(check).collect())
}

/// Records attempts. One of another generation than the row's is recorded already and changes nothing. One of a message
/// from a sender is recorded unless the row is retrying: it cannot be distinguished from a message that was sent again.
pub(super) async fn record(
    connection: &mut PgConnection,
    queue: &str,
    failures: &[NewAttempt],
) -> Result<(), sqlx::Error> {
    for failure in failures {
        record_one(connection, queue, failure).await?;
    }
    Ok(())
}

async fn record_one(
    connection: &mut PgConnection,
    queue: &str,
    failure: &NewAttempt,
) -> Result<(), sqlx::Error> {
    let (status, reason, delay) = match failure.next {
        RetryDecision::Retry(delay) => ("retrying", None, Some(delay.as_secs_f64())),
        RetryDecision::Dead(reason) => ("dead", Some(reason.as_str()), None),
    };
    let attempts = i32::try_from(failure.attempts).unwrap_or(i32::MAX);
    sqlx::query!(
        "with recorded as (
             insert into failed_messages as known (queue, message_id, fingerprint, type, body, properties, original,
                 status, reason, error, error_pattern, error_group, attempts, due_at)
             values ($1, $2, $3, $4, $5, $6::text::json, $7, $8, $9, $10, $11, $12, $13,
                 clock_timestamp() + make_interval(secs => $14))
             on conflict (queue, coalesce(message_id, ''), type, fingerprint) do update
             set status = excluded.status, reason = excluded.reason, error = excluded.error,
                 error_pattern = excluded.error_pattern, error_group = excluded.error_group,
                 attempts = excluded.attempts, generation = known.generation + 1, due_at = excluded.due_at,
                 last_failed_at = now(), published_at = null, ended_at = null
             where case when $15::bigint = 0 then known.status <> 'retrying'
                   else known.status = 'retrying' and known.generation = $15 end
             returning id, generation
         )
         insert into failed_attempts (failed_message_id, generation, attempt, host, duration_ms, error, chain)
         select id, generation, $13, $16, $17, $10, $18 from recorded",
        queue,
        failure.key.message_id.as_deref(),
        &failure.key.body_hash.0[..],
        failure.key.kind,
        failure.body,
        failure.properties,
        failure.original,
        status,
        reason,
        failure.error,
        failure.error_pattern,
        failure.error_group,
        attempts,
        delay,
        failure.generation,
        failure.host,
        i64::try_from(failure.duration.as_millis()).unwrap_or(i64::MAX),
        &failure.chain,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// What was handled has not failed any more; nor is it discarded, if its sender sent it again. Message by message, for a
/// list would be a filter behind all of the queue's failures; `offset 0` keeps the planner from turning that round. Whether
/// a row is what was handled is asked of the row itself, once more if an operator has edited it meanwhile.
pub(super) async fn resolve(
    connection: &mut PgConnection,
    queue: &str,
    handled: &[Arc<str>],
) -> Result<(), sqlx::Error> {
    if handled.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "update failed_messages as failed
         set status = 'resolved', reason = null, due_at = null, ended_at = now()
         where failed.status <> 'resolved' and failed.id = any(array(
             select same_id.id from unnest($2::text[]) as handled (message_id)
             cross join lateral (
                 select f.id from failed_messages f
                 where f.queue = $1 and coalesce(f.message_id, '') = handled.message_id offset 0
             ) as same_id))
           and exists (select from inbox i where i.queue = failed.queue and i.message_id = failed.message_id
                       and i.fingerprint = failed.fingerprint and coalesce(i.type, failed.type) = failed.type
                       offset 0)",
        queue,
        &texts(handled) as &[&str],
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// How often messages were started without an end, in the order given.
pub(super) async fn unfinished_starts(
    connection: &mut PgConnection,
    queue: &str,
    ids: &[Arc<str>],
) -> Result<Vec<u32>, sqlx::Error> {
    let rows = sqlx::query!(
        "select message_id, starts from message_starts where queue = $1 and message_id = any($2)",
        queue,
        &texts(ids) as &[&str],
    )
    .fetch_all(connection)
    .await?;
    let known: HashMap<_, _> = rows.iter().map(|row| (row.message_id.as_str(), row.starts)).collect();
    Ok(ids
        .iter()
        .map(|id| known.get(&**id).map_or(0, |starts| u32::try_from(*starts).unwrap_or_default()))
        .collect())
}

/// Counts a start of each message.
pub(super) async fn record_starts(
    connection: &mut PgConnection,
    queue: &str,
    ids: &[Arc<str>],
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into message_starts (queue, message_id, starts)
         select distinct $1, id, 1 from unnest($2::text[]) as id order by id
         on conflict (queue, message_id) do update set starts = message_starts.starts + 1, started_at = now()",
        queue,
        &texts(ids) as &[&str],
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes back one start of each message, and forgets those that have none left.
pub(super) async fn revert_starts(
    connection: &mut PgConnection,
    queue: &str,
    ids: &[Arc<str>],
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "with locked as (
             select message_id, starts from message_starts where queue = $1 and message_id = any($2)
             order by message_id for update
         ), ended as (
             delete from message_starts m using locked
             where m.queue = $1 and m.message_id = locked.message_id and locked.starts <= 1
         )
         update message_starts m set starts = m.starts - 1 from locked
         where m.queue = $1 and m.message_id = locked.message_id and locked.starts > 1",
        queue,
        &texts(ids) as &[&str],
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Forgets the starts of messages that have ended.
pub(super) async fn forget_starts(
    connection: &mut PgConnection,
    queue: &str,
    ended: &[Arc<str>],
) -> Result<(), sqlx::Error> {
    if ended.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "delete from message_starts where queue = $1 and message_id = any($2)",
        queue,
        &texts(ended) as &[&str],
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Bytes of bodies that are published back together, at least one message whatever its size.
const DUE_BYTES: i64 = 16 << 20;

/// Failed messages whose time has come, the longest due first.
pub(super) async fn due(connection: &mut PgConnection, at_most: u32) -> Result<Vec<DueRetry>, sqlx::Error> {
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
           where sized.before < $2
           order by sized.due_at, f.id"#,
        i64::from(at_most),
        DUE_BYTES,
    )
    .fetch_all(connection)
    .await
}

/// Notes that copies were published; one that changed meanwhile is published again.
pub(super) async fn published(
    connection: &mut PgConnection,
    retries: &[&DueRetry],
) -> Result<(), sqlx::Error> {
    let (ids, generations) = copies(retries);
    sqlx::query!(
        "with locked as (
             select f.id from unnest($1::bigint[], $2::bigint[]) as done (id, generation)
             join failed_messages f on f.id = done.id and f.generation = done.generation and f.status = 'retrying'
             order by f.id for update of f
         )
         update failed_messages f set published_at = now(), held_because = null from locked where f.id = locked.id",
        &ids,
        &generations,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// How long a retry that no queue took waits before it is tried again.
const HELD_FOR: f64 = 5.0;

/// Notes why copies could not be published, and puts them off a little.
pub(super) async fn hold(
    connection: &mut PgConnection,
    retries: &[&DueRetry],
    reason: &str,
) -> Result<(), sqlx::Error> {
    let (ids, generations) = copies(retries);
    sqlx::query!(
        "update failed_messages as f set held_because = $3, due_at = now() + make_interval(secs => $4)
         from unnest($1::bigint[], $2::bigint[]) as held (id, generation)
         where f.id = held.id and f.generation = held.generation and f.status = 'retrying'",
        &ids,
        &generations,
        reason,
        HELD_FOR,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Notes that a copy can never be published.
pub(super) async fn refuse(
    connection: &mut PgConnection,
    retry: &DueRetry,
    reason: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update failed_messages
         set status = 'dead', reason = 'invalid_message', error = $3, error_pattern = $3,
             error_group = left(md5(concat_ws(' ', queue, type, $3::text)), 8), due_at = null, last_failed_at = now()
         where id = $1 and generation = $2 and status = 'retrying'",
        retry.id,
        retry.generation,
        format!("the broker does not take it back: {reason}"),
    )
    .execute(connection)
    .await?;
    Ok(())
}

fn texts(ids: &[Arc<str>]) -> Vec<&str> {
    ids.iter().map(|id| &**id).collect()
}

/// Which copies of which rows: the columns of a set-based statement.
fn copies(retries: &[&DueRetry]) -> (Vec<i64>, Vec<i64>) {
    retries.iter().map(|retry| (retry.id, retry.generation)).unzip()
}

//! Reads of failed messages that an attempt, a copy or an operator refers to.

use std::collections::HashMap;

use sqlx::PgConnection;

use crate::{
    domain::{FailedMessage, FailedMessageKey, Reason, Status, StatusKind},
    ports::{
        failed_messages::{FailedMessageFilter, Since},
        queue::RetryMark,
        store::RetryCheck,
    },
};

/// The counted attempts of messages that are retrying, in the order of `keys`. The rows are locked. Each is looked up
/// separately, as in [`resolve`](super::record::resolve).
pub(in crate::adapters::postgres) async fn count_attempts(
    connection: &mut PgConnection,
    queue: &str,
    keys: &[FailedMessageKey],
) -> Result<Vec<u32>, sqlx::Error> {
    let ids: Vec<_> = keys.iter().map(|key| key.message_id.as_deref().unwrap_or_default()).collect();
    let kinds: Vec<_> = keys.iter().map(|key| key.kind.as_str()).collect();
    let hashes: Vec<_> = keys.iter().map(|key| &key.body_hash.0[..]).collect();
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
        &hashes as &[&[u8]],
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

/// Whether copies are current, in the order of `marks`. With `lock` their failed messages are locked until the end of the
/// transaction; without, the relay and operators do not wait for a long transaction.
pub(in crate::adapters::postgres) async fn check_retries(
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

/// The ids of matching messages; the one that failed first is first, so that messages with one key are in their order.
pub(super) async fn matching(
    connection: &mut PgConnection,
    filter: &FailedMessageFilter,
) -> Result<Vec<i64>, sqlx::Error> {
    let (within_seconds, since) = filter.since.map(Since::parts).unwrap_or_default();
    sqlx::query_scalar!(
        "select f.id from failed_messages f
         where failed_message_matches(f, $1, $2, $3, $4, $5, $6,
             coalesce($7, extract(epoch from now() - $9::timestamptz)::double precision), $8)
         order by f.id",
        filter.ids.as_deref(),
        filter.status.map(StatusKind::as_str),
        filter.queue,
        filter.kind,
        filter.reason,
        filter.grep,
        within_seconds,
        filter.group,
        since,
    )
    .fetch_all(connection)
    .await
}

/// Locks messages in the order of their ids, so that two operators cannot deadlock, and reads those that match the filter
/// at that moment. Its ids are replaced by `ids`. `since` is not checked: another failure of a message only makes it
/// younger. Another transaction may have changed a message after this one began, so the clock is read, not `now()`.
pub(super) async fn find_for_update(
    connection: &mut PgConnection,
    ids: &[i64],
    filter: &FailedMessageFilter,
) -> Result<Vec<FailedMessage>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select f.id, f.status, f.reason, f.attempts, f.generation,
                  exists (select from inbox i where i.queue = f.queue and i.message_id = f.message_id
                          and i.fingerprint = f.fingerprint and coalesce(i.type, f.type) = f.type) as "handled!",
                  (coalesce(f.published_at, f.due_at)
                   between clock_timestamp() - interval '1 minute' and clock_timestamp()) is true
                      as "scheduled_recently!",
                  f.overtaken_by is not null as "overtaken!"
           from failed_messages f
           where f.id = any($1) and failed_message_matches(f, null, $2, $3, $4, $5, $6, null, $7)
           order by f.id for update"#,
        ids,
        filter.status.map(StatusKind::as_str),
        filter.queue,
        filter.kind,
        filter.reason,
        filter.grep,
        filter.group,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(FailedMessage {
                id: row.id,
                status: decode_status(&row.status, row.reason.as_deref())?,
                attempts: u32::try_from(row.attempts).unwrap_or_default(),
                generation: row.generation,
                handled: row.handled,
                overtaken: row.overtaken,
                scheduled_recently: row.scheduled_recently,
            })
        })
        .collect()
}

/// The status of its columns.
pub(super) fn decode_status(status: &str, reason: Option<&str>) -> Result<Status, sqlx::Error> {
    StatusKind::from_name(status)
        .and_then(|kind| Status::new(kind, reason.and_then(Reason::from_name)))
        .ok_or_else(|| {
            sqlx::Error::Decode(format!("unknown status {status:?} with reason {reason:?}").into())
        })
}

//! The table `message_starts`: redelivered messages whose handling began and did not end, for crash-loop detection.

use std::{collections::HashMap, sync::Arc};

use sqlx::PgConnection;

/// The unfinished starts of messages, in the order of `ids`.
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

/// Counts a start of each message, once even if `ids` has it twice.
pub(super) async fn record_starts(
    connection: &mut PgConnection,
    queue: &str,
    ids: &[Arc<str>],
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into message_starts (queue, message_id, starts)
         select distinct $1, id, 1 from pg_catalog.unnest($2::text[]) as id order by id
         on conflict (queue, message_id) do update set starts = message_starts.starts + 1, started_at = now()",
        queue,
        &texts(ids) as &[&str],
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Reverts one start of each message. Messages without starts have no row.
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

/// Removes the starts of messages that were handled or recorded.
pub(super) async fn clear_starts(
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

fn texts(ids: &[Arc<str>]) -> Vec<&str> {
    ids.iter().map(|id| &**id).collect()
}

//! Which messages were handled.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use sqlx::PgConnection;

use crate::{
    domain::MessageKey,
    ports::{error::StoreError, store::InboxCheck},
};

/// Enters messages; those that were there are compared by type and by the hash of their body. None: one that was there was
/// removed meanwhile, so that the question must be asked again.
pub(super) async fn check_inbox(
    connection: &mut PgConnection,
    queue: &str,
    keys: &[MessageKey],
) -> Result<Option<Vec<InboxCheck>>, sqlx::Error> {
    let new = enter(connection, queue, keys).await?;
    if new.len() == keys.len() {
        return Ok(Some(vec![InboxCheck::New; keys.len()]));
    }
    let new: HashSet<_> = new.iter().map(String::as_str).collect();
    let old: Vec<_> = keys.iter().map(|key| &*key.message_id).filter(|id| !new.contains(id)).collect();
    let known = known(connection, queue, &old).await?;
    let inbox_check = |key: &MessageKey| match known.get(&*key.message_id) {
        None => new.contains(&*key.message_id).then_some(InboxCheck::New),
        Some((kind, body_hash)) => {
            let same_kind = kind.as_deref().is_none_or(|kind| kind == key.kind);
            let same = same_kind && body_hash[..] == key.body_hash.0;
            Some(if same { InboxCheck::Duplicate } else { InboxCheck::BodyMismatch })
        }
    };
    Ok(keys.iter().map(inbox_check).collect())
}

/// Retention removed a message just when it came once more.
pub(super) fn removed_meanwhile() -> StoreError {
    StoreError::Conflict("a message was removed from the inbox while it was looked up".into())
}

/// Sorted by id, so that two transactions that enter the same messages never wait for each other.
async fn enter(
    connection: &mut PgConnection,
    queue: &str,
    keys: &[MessageKey],
) -> Result<Vec<String>, sqlx::Error> {
    let mut sorted: Vec<_> = keys.iter().collect();
    sorted.sort_unstable_by(|one, other| one.message_id.cmp(&other.message_id));
    let ids: Vec<_> = sorted.iter().map(|key| &*key.message_id).collect();
    let kinds: Vec<_> = sorted.iter().map(|key| key.kind).collect();
    let fingerprints: Vec<_> = sorted.iter().map(|key| &key.body_hash.0[..]).collect();
    sqlx::query_scalar!(
        "insert into inbox (queue, message_id, type, fingerprint)
         select $1, * from unnest($2::text[], $3::text[], $4::bytea[])
         on conflict do nothing
         returning message_id",
        queue,
        &ids as &[&str],
        &kinds as &[&str],
        &fingerprints as &[&[u8]],
    )
    .fetch_all(connection)
    .await
}

/// Of each message, its type, which old rows lack, and the hash of its body.
async fn known(
    connection: &mut PgConnection,
    queue: &str,
    ids: &[&str],
) -> Result<HashMap<String, (Option<String>, Vec<u8>)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select known.message_id as "message_id!", known.type as kind, known.fingerprint as "fingerprint!"
           from pg_catalog.unnest($2::text[]) as asked (message_id)
           cross join lateral (
               select message_id, type, fingerprint from inbox
               where queue = $1 and message_id = asked.message_id limit 1
           ) as known"#,
        queue,
        ids as &[&str],
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.message_id, (row.kind, row.fingerprint))).collect())
}

/// Writes a row and removes it: only a server that takes writes can do both.
pub(super) async fn write_and_remove(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let id = sqlx::query_scalar!(
        "insert into inbox (queue, message_id, fingerprint) values ('', gen_random_uuid(), '') returning message_id"
    );
    let id = id.fetch_one(&mut *connection).await?;
    sqlx::query!("delete from inbox where queue = '' and message_id = $1", id).execute(connection).await?;
    Ok(())
}

/// Forgets messages that were entered in this transaction and then not handled. Each row is looked up by its whole key: with
/// `message_id = any(…)`, a plan that was made while the table was small reads every row of the queue.
pub(super) async fn forget(
    connection: &mut PgConnection,
    queue: &str,
    ids: &[Arc<str>],
) -> Result<(), sqlx::Error> {
    if ids.is_empty() {
        return Ok(());
    }
    let ids: Vec<_> = ids.iter().map(|id| &**id).collect();
    sqlx::query!(
        "delete from inbox where ctid = any(array(
             select entered.ctid
             from pg_catalog.unnest($2::text[]) as asked (message_id)
             cross join lateral (
                 select ctid from inbox where queue = $1 and message_id = asked.message_id limit 1
             ) as entered
         ))",
        queue,
        &ids as &[&str],
    )
    .execute(connection)
    .await?;
    Ok(())
}

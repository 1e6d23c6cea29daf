//! Which messages were handled.

use std::{collections::HashMap, sync::Arc};

use sqlx::PgConnection;

use crate::ports::store::{Receipt, Sight};

/// Enters messages; those that were there are compared by the hash of their body.
pub(super) async fn first_sights(
    connection: &mut PgConnection,
    queue: &str,
    receipts: &[Receipt],
) -> Result<Vec<Sight>, sqlx::Error> {
    let new = enter(connection, queue, receipts).await?;
    if new.len() == receipts.len() {
        return Ok(vec![Sight::First; receipts.len()]);
    }
    let new: std::collections::HashSet<_> = new.iter().map(String::as_str).collect();
    let old: Vec<_> =
        receipts.iter().map(|receipt| &*receipt.message_id).filter(|id| !new.contains(id)).collect();
    let known = fingerprints(connection, queue, &old).await?;
    let sight = |receipt: &Receipt| match known.get(&*receipt.message_id) {
        None => Sight::First,
        Some(known) if known[..] == receipt.fingerprint.0 => Sight::Repeat,
        Some(_) => Sight::OtherBody,
    };
    Ok(receipts.iter().map(sight).collect())
}

/// Sorted by id, so that two transactions that enter the same messages never wait for each other.
async fn enter(
    connection: &mut PgConnection,
    queue: &str,
    receipts: &[Receipt],
) -> Result<Vec<String>, sqlx::Error> {
    let mut sorted: Vec<_> = receipts.iter().collect();
    sorted.sort_unstable_by(|one, other| one.message_id.cmp(&other.message_id));
    let ids: Vec<_> = sorted.iter().map(|receipt| &*receipt.message_id).collect();
    let fingerprints: Vec<_> = sorted.iter().map(|receipt| &receipt.fingerprint.0[..]).collect();
    sqlx::query_scalar!(
        "insert into inbox (queue, message_id, fingerprint)
         select $1, * from unnest($2::text[], $3::bytea[])
         on conflict do nothing
         returning message_id",
        queue,
        &ids as &[&str],
        &fingerprints as &[&[u8]],
    )
    .fetch_all(connection)
    .await
}

async fn fingerprints(
    connection: &mut PgConnection,
    queue: &str,
    ids: &[&str],
) -> Result<HashMap<String, Vec<u8>>, sqlx::Error> {
    let rows = sqlx::query!(
        "select message_id, fingerprint from inbox where queue = $1 and message_id = any($2)",
        queue,
        ids as &[&str],
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.message_id, row.fingerprint)).collect())
}

/// Forgets messages that were entered and then not handled.
pub(super) async fn forget(
    connection: &mut PgConnection,
    queue: &str,
    ids: &[Arc<str>],
) -> Result<(), sqlx::Error> {
    if ids.is_empty() {
        return Ok(());
    }
    let ids: Vec<_> = ids.iter().map(|id| &**id).collect();
    sqlx::query!("delete from inbox where queue = $1 and message_id = any($2)", queue, &ids as &[&str])
        .execute(connection)
        .await?;
    Ok(())
}

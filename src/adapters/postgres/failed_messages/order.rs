//! The order of messages with one key: which must wait, which are overtaken, which is next.

use std::collections::HashMap;

use sqlx::PgConnection;

use crate::{
    domain::{OrderingKey, StatusKind},
    ports::store::{OrderCheck, OrderedMessage, Overtaking, OwnFailedMessage},
};

/// How often the heads of keys may change while their locks are awaited.
const LOCK_TRIES: usize = 10;

/// The places of commands in the order of their keys. One query, if no message with one of the keys has failed. None if other
/// transactions change the messages again and again.
///
/// Of each key, the first open message is locked until the end of the transaction, so that it cannot end before a command
/// that must wait is recorded: the transaction that ends it releases the command.
pub(in crate::adapters::postgres) async fn check_order(
    connection: &mut PgConnection,
    queue: &str,
    messages: &[OrderedMessage],
) -> Result<Option<Vec<OrderCheck>>, sqlx::Error> {
    let mut checks = vec![OrderCheck::default(); messages.len()];
    let known = known(connection, messages).await?;
    if known.is_empty() {
        return Ok(Some(checks));
    }
    let asked: Vec<_> = known.iter().map(|index| &messages[*index]).collect();
    for _ in 0..LOCK_TRIES {
        let locked = lock_heads(connection, &asked).await?;
        let places = places(connection, queue, &asked).await?;
        if places.iter().all(|place| place.head.is_none_or(|head| locked.contains(&head))) {
            for place in &places {
                let index = usize::try_from(place.asked - 1).unwrap_or_default();
                checks[known[index]] = place.check();
            }
            return Ok(Some(checks));
        }
    }
    Ok(None)
}

/// The indexes of the messages with keys that unresolved failed messages have. Each key is looked up separately: `offset 0`
/// keeps the planner from joining them. Nothing is looked up if there is no such message at all.
async fn known(
    connection: &mut PgConnection,
    messages: &[OrderedMessage],
) -> Result<Vec<usize>, sqlx::Error> {
    let keys: Vec<_> = messages.iter().map(|message| message.key.as_str()).collect();
    let rows = sqlx::query_scalar!(
        r#"select asked.place as "place!" from pg_catalog.unnest($1::text[]) with ordinality as asked (key, place)
           where ((select exists (select from failed_messages
                                  where key is not null and status in ('retrying', 'waiting')))
                  and exists (select from failed_messages f
                              where f.key = asked.key and f.status in ('retrying', 'waiting') offset 0))
              or ((select exists (select from failed_messages
                                  where key is not null and status in ('dead', 'discarded')))
                  and exists (select from failed_messages f
                              where f.key = asked.key and f.status in ('dead', 'discarded') offset 0))"#,
        &keys as &[&str],
    );
    let places = rows.fetch_all(connection).await?;
    Ok(places.into_iter().filter_map(|place| usize::try_from(place - 1).ok()).collect())
}

/// Locks the first open message of each key, in the order of ids.
async fn lock_heads(
    connection: &mut PgConnection,
    messages: &[&OrderedMessage],
) -> Result<Vec<i64>, sqlx::Error> {
    let keys: Vec<_> = messages.iter().map(|message| message.key.as_str()).collect();
    let heads = sqlx::query_scalar!(
        "select id from failed_messages
         where id = any(array(
             select (select f.id from failed_messages f
                     where f.key = asked.key and f.status in ('retrying', 'waiting') order by f.id limit 1)
             from pg_catalog.unnest($1::text[]) as asked (key)))
         order by id for share",
        &keys as &[&str],
    );
    heads.fetch_all(connection).await
}

struct Place {
    /// The number of the message in the question, from 1.
    asked: i64,
    own_id: Option<i64>,
    own_status: Option<String>,
    own_attempts: Option<i32>,
    own_overtaken: bool,
    head: Option<i64>,
    overtakes: bool,
}

impl Place {
    fn check(&self) -> OrderCheck {
        let status = self.own_status.as_deref().and_then(StatusKind::from_name);
        let attempts = self.own_attempts.filter(|_| status == Some(StatusKind::Retrying));
        let attempts = attempts.and_then(|attempts| u32::try_from(attempts).ok()).unwrap_or_default();
        let own = match (self.own_id, status) {
            (Some(id), Some(status)) => {
                Some(OwnFailedMessage { id, status, attempts, overtaken: self.own_overtaken })
            }
            _ => None,
        };
        let is_behind = self.head.is_some_and(|head| self.own_id.is_none_or(|own| head < own));
        OrderCheck { own, is_behind, overtakes: self.overtakes }
    }
}

async fn places(
    connection: &mut PgConnection,
    queue: &str,
    messages: &[&OrderedMessage],
) -> Result<Vec<Place>, sqlx::Error> {
    let keys: Vec<_> = messages.iter().map(|of| of.key.as_str()).collect();
    let ids: Vec<_> = messages.iter().map(|of| &*of.message.message_id).collect();
    let kinds: Vec<_> = messages.iter().map(|of| of.message.kind).collect();
    let hashes: Vec<_> = messages.iter().map(|of| &of.message.body_hash.0[..]).collect();
    let places = sqlx::query_as!(
        Place,
        r#"select asked.place as "asked!", own.id as "own_id?", own.status as "own_status?", own.attempts as "own_attempts?",
                  own.overtaken_by is not null as "own_overtaken!", head.id as "head?",
                  exists (select from failed_messages f where f.key = asked.key and f.status in ('dead', 'discarded')
                          and (own.id is null or f.id < own.id) offset 0) as "overtakes!"
           from unnest($2::text[], $3::text[], $4::text[], $5::bytea[]) with ordinality
               as asked (key, message_id, type, fingerprint, place)
           left join lateral (
               select f.id, f.status, f.attempts, f.overtaken_by from failed_messages f
               where f.queue = $1 and coalesce(f.message_id, '') = asked.message_id and f.type = asked.type
                 and f.fingerprint = asked.fingerprint offset 0
           ) as own on true
           left join lateral (
               select f.id from failed_messages f
               where f.key = asked.key and f.status in ('retrying', 'waiting') order by f.id limit 1
           ) as head on true
           order by asked.place"#,
        queue,
        &keys as &[&str],
        &ids as &[&str],
        &kinds as &[&str],
        &hashes as &[&[u8]],
    );
    places.fetch_all(connection).await
}

/// Notes by which commands dead and discarded messages are overtaken. The last command with a key counts.
pub(in crate::adapters::postgres) async fn overtake(
    connection: &mut PgConnection,
    overtakings: &[Overtaking],
) -> Result<(), sqlx::Error> {
    if overtakings.is_empty() {
        return Ok(());
    }
    let last: HashMap<_, _> = overtakings.iter().map(|overtaking| (&overtaking.key, overtaking)).collect();
    let keys: Vec<_> = last.keys().map(|key| key.as_str()).collect();
    let ids: Vec<_> = last.values().map(|overtaking| &*overtaking.message_id).collect();
    let own: Vec<_> = last.values().map(|overtaking| overtaking.own).collect();
    let overtaken = sqlx::query!(
        "with locked as (
             select f.id, by.message_id from unnest($1::text[], $2::text[], $3::bigint[]) as by (key, message_id, own)
             join failed_messages f
               on f.key = by.key and f.status in ('dead', 'discarded') and (by.own is null or f.id < by.own)
             order by f.id for update of f
         )
         update failed_messages f set overtaken_by = locked.message_id from locked where f.id = locked.id",
        &keys as &[&str],
        &ids as &[&str],
        &own as &[Option<i64>],
    );
    overtaken.execute(connection).await?;
    Ok(())
}

/// Tries the first open message of each key, if it waits. Another transaction may end it meanwhile: then it is the turn of
/// the next one. Returns whether any is tried.
pub(in crate::adapters::postgres) async fn release(
    connection: &mut PgConnection,
    keys: &[OrderingKey],
) -> Result<bool, sqlx::Error> {
    let keys: Vec<_> = keys.iter().map(OrderingKey::as_str).collect();
    let mut any = false;
    while !keys.is_empty() {
        let next = sqlx::query!(
            r#"with next as (
                   select head.id from pg_catalog.unnest($1::text[]) as asked (key)
                   cross join lateral (
                       select f.id, f.status from failed_messages f
                       where f.key = asked.key and f.status in ('retrying', 'waiting') order by f.id limit 1
                   ) as head
                   where head.status = 'waiting'
               ), released as (
                   update failed_messages f
                   set status = 'retrying', due_at = clock_timestamp(), published_at = null,
                       generation = f.generation + 1
                   where f.id = any(array(select id from next)) and f.status = 'waiting'
                   returning f.id
               )
               select (select count(*) from next) as "found!", (select count(*) from released) as "released!""#,
            &keys as &[&str],
        );
        let next = next.fetch_one(&mut *connection).await?;
        any |= next.released > 0;
        if next.released == next.found {
            break;
        }
    }
    Ok(any)
}

//! The table of unpublished events, statement by statement.

use std::time::Duration;

use sqlx::PgConnection;

use crate::{
    domain::OutboxRow,
    ports::{outbox::PendingWork, store::OutboxEvent},
};

/// Appends events in the order in which they happened.
pub(super) async fn append(connection: &mut PgConnection, events: &[OutboxEvent]) -> Result<(), sqlx::Error> {
    if events.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "insert into outbox (name, sku, sequence, body, causation_id, correlation_id, traceparent, tracestate)
         select * from unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[])",
        &events.iter().map(|event| event.name).collect::<Vec<_>>() as &[&str],
        &events.iter().map(|event| event.sku.as_str()).collect::<Vec<_>>() as &[&str],
        &events.iter().map(|event| event.sequence).collect::<Vec<_>>(),
        &events.iter().map(|event| event.body.as_str()).collect::<Vec<_>>() as &[&str],
        &events.iter().map(|event| &*event.causation_id).collect::<Vec<_>>() as &[&str],
        &events.iter().map(|event| &*event.correlation_id).collect::<Vec<_>>() as &[&str],
        &events.iter().map(|event| event.traceparent.as_deref()).collect::<Vec<_>>() as &[Option<&str>],
        &events.iter().map(|event| event.tracestate.as_deref()).collect::<Vec<_>>() as &[Option<&str>],
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// What there is to publish above an id, and the last id that was assigned.
pub(super) async fn pending(
    connection: &mut PgConnection,
    above: i64,
) -> Result<(PendingWork, i64), sqlx::Error> {
    let pending = sqlx::query!(
        r#"select exists (select from outbox o where id > $1 and refused is null
                          and not exists (select from outbox r where r.refused is not null and r.sku = o.sku)
                  ) as "events!",
                  (select extract(epoch from due_at - now())::double precision from failed_messages
                   where status = 'retrying' and published_at is null order by due_at limit 1) as retry_in,
                  (select last_value from outbox_id_seq) as "last_id!""#,
        above,
    );
    let pending = pending.fetch_one(connection).await?;
    let retry_in = pending.retry_in.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default());
    Ok((PendingWork { events: pending.events, retry_in }, pending.last_id))
}

/// The oldest unpublished rows above an id, without those of the SKUs in `except`.
pub(super) async fn unpublished(
    connection: &mut PgConnection,
    above: i64,
    at_most: u32,
    except: &[String],
) -> Result<Vec<OutboxRow>, sqlx::Error> {
    sqlx::query_as!(
        OutboxRow,
        r#"select id, event_id, name, sku, sequence, body, causation_id, correlation_id, traceparent, tracestate,
                  committed_at
           from outbox o
           where id > $2 and refused is null and sku <> all($3)
             and not exists (select from outbox r where r.refused is not null and r.sku = o.sku)
           order by id limit $1"#,
        i64::from(at_most),
        above,
        except,
    )
    .fetch_all(connection)
    .await
}

/// Removes published rows, and counts the unroutable ones among them. With `record`, the same statement records what was
/// published: no event is missing there, and none is removed without it.
pub(super) async fn remove(
    connection: &mut PgConnection,
    ids: &[i64],
    unroutable: &[i64],
    record: bool,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "with counted as (
             update relay_state set unroutable = unroutable + pg_catalog.cardinality($2::bigint[])
             where pg_catalog.cardinality($2::bigint[]) > 0
         ), removed as (
             delete from outbox where id = any($1)
             returning id, event_id, name, sku, sequence, body, causation_id, correlation_id, committed_at
         )
         insert into published_events
             (event_id, name, sku, sequence, body, causation_id, correlation_id, committed_at, unroutable)
         select event_id, name, sku, sequence, body, causation_id, correlation_id, committed_at, id = any($2)
         from removed where $3",
        ids,
        unroutable,
        record,
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Records the names of the events that the broker nacks.
pub(super) async fn record_nacked(
    connection: &mut PgConnection,
    names: &[String],
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update relay_state
         set nacked_events = $1, nacked_since = case when $1 = '{}'::text[] then null else coalesce(nacked_since, now()) end
         where nacked_events <> $1",
        names,
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Parks a row.
pub(super) async fn park(connection: &mut PgConnection, id: i64, reason: &str) -> Result<(), sqlx::Error> {
    sqlx::query!("update outbox set refused = $2, refused_at = now() where id = $1", id, reason)
        .execute(connection)
        .await
        .map(drop)
}

/// The id of the oldest row.
pub(super) async fn oldest_id(connection: &mut PgConnection) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar!("select id from outbox order by id limit 1").fetch_optional(connection).await
}

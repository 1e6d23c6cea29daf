//! What is read of lines, written in the same commit as the lines themselves, and made anew from them.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{PgConnection, PgPool};

use crate::ports::{
    admin::{ReadModel, RebuildReport},
    error::StoreError,
    store::{ReadModelRow, ReadModelState},
};

use super::{PgConfig, session::PooledSession};

/// Writes each line's row, or removes it.
pub(super) async fn write(connection: &mut PgConnection, rows: &[ReadModelRow]) -> Result<(), sqlx::Error> {
    let mut shown = UpsertColumns::default();
    let (mut gone_orderids, mut gone_skus) = (Vec::new(), Vec::new());
    for row in rows {
        match &row.state {
            ReadModelState::Allocated(quantity, batch) => {
                shown.push(row, quantity.get(), Some(batch.as_str()))
            }
            ReadModelState::Backordered(quantity) => shown.push(row, quantity.get(), None),
            ReadModelState::Removed => {
                gone_orderids.push(row.orderid.as_str());
                gone_skus.push(row.sku.as_str());
            }
        }
    }
    upsert(connection, &shown).await?;
    remove(connection, &gone_orderids, &gone_skus).await
}

#[derive(Default)]
struct UpsertColumns<'a> {
    orderids: Vec<&'a str>,
    skus: Vec<&'a str>,
    quantities: Vec<i32>,
    batches: Vec<Option<&'a str>>,
}

impl<'a> UpsertColumns<'a> {
    fn push(&mut self, row: &'a ReadModelRow, quantity: u32, batch: Option<&'a str>) {
        self.orderids.push(row.orderid.as_str());
        self.skus.push(row.sku.as_str());
        self.quantities.push(i32::try_from(quantity).unwrap_or(i32::MAX));
        self.batches.push(batch);
    }
}

async fn upsert(connection: &mut PgConnection, shown: &UpsertColumns<'_>) -> Result<(), sqlx::Error> {
    if shown.orderids.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "insert into allocations_view (orderid, sku, qty, batchref)
         select * from unnest($1::text[], $2::text[], $3::integer[], $4::text[])
         on conflict (orderid, sku) do update set qty = excluded.qty, batchref = excluded.batchref",
        &shown.orderids as &[&str],
        &shown.skus as &[&str],
        &shown.quantities,
        &shown.batches as &[Option<&str>],
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn remove(connection: &mut PgConnection, orderids: &[&str], skus: &[&str]) -> Result<(), sqlx::Error> {
    if orderids.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "delete from allocations_view as v using unnest($1::text[], $2::text[]) as gone (orderid, sku)
         where v.orderid = gone.orderid and v.sku = gone.sku",
        orderids as &[&str],
        skus as &[&str],
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// So many lines are compared in one statement.
const COMPARED_AT_ONCE: i64 = 20_000;

/// Somebody who holds a product for long is waited for so often.
const TRIES_IN_CONFLICT: usize = 10;

/// The read model of one database.
pub struct PgReadModel {
    pool: PgPool,
    timeout: Duration,
}

/// A line, by order and SKU.
type LineKey = (String, String);

impl PgReadModel {
    /// A read model that counts as away when it does not answer for the access's patience.
    #[must_use]
    pub fn new(pool: PgPool, access: &PgConfig) -> Self {
        Self { pool, timeout: access.timeout }
    }
}

#[async_trait]
impl ReadModel for PgReadModel {
    async fn rebuild(
        &self,
        progress: &(dyn Fn(RebuildReport) + Send + Sync),
    ) -> Result<RebuildReport, StoreError> {
        let (mut rebuilt, mut after) = (RebuildReport::default(), LineKey::default());
        loop {
            let mut session = PooledSession::open(&self.pool, self.timeout).await?;
            let part = session.run(async |connection| next_range(connection, &after).await).await?;
            let Some((last, lines)) = part else {
                session.release();
                return Ok(rebuilt);
            };
            let differing =
                session.run(async |connection| find_drift(connection, &after, &last).await).await?;
            session.release();
            rebuilt.lines += lines;
            if !differing.is_empty() {
                rebuilt.differed += self.repair_through_conflicts(&differing).await?;
            }
            progress(rebuilt);
            after = last;
        }
    }
}

impl PgReadModel {
    async fn repair_through_conflicts(&self, keys: &[LineKey]) -> Result<u64, StoreError> {
        for _ in 1..TRIES_IN_CONFLICT {
            match self.repair(keys).await {
                Err(StoreError::Conflict(_)) => {} // It has waited for the lock already.
                outcome => return outcome,
            }
        }
        self.repair(keys).await
    }

    /// Under the locks of their products, so that nobody changes the lines meanwhile; some may be right by now.
    async fn repair(&self, keys: &[LineKey]) -> Result<u64, StoreError> {
        let mut session = PooledSession::begin(&self.pool, self.timeout).await?;
        let put_right = session.run(async |connection| {
            lock_products(connection, keys).await?;
            Ok(delete_orphans(connection, keys).await? + upsert_from_lines(connection, keys).await?)
        });
        match put_right.await {
            Ok(count) => session.commit().await.map(|()| count),
            Err(error) => {
                session.rollback().await;
                Err(error)
            }
        }
    }
}

/// The last of the next lines and how many they are, whether they have a row or there is a row without a line.
async fn next_range(
    connection: &mut PgConnection,
    (orderid, sku): &LineKey,
) -> Result<Option<(LineKey, u64)>, sqlx::Error> {
    let part = sqlx::query!(
        r#"with part as (
               (select orderid, sku from order_lines where (orderid, sku) > ($1, $2) order by orderid, sku limit $3)
               union
               (select orderid, sku from allocations_view where (orderid, sku) > ($1, $2) order by orderid, sku limit $3)
               order by orderid, sku limit $3
           )
           select orderid as "orderid!", sku as "sku!", (select count(*) from part) as "lines!"
           from part order by orderid desc, sku desc limit 1"#,
        orderid,
        sku,
        COMPARED_AT_ONCE,
    )
    .fetch_optional(connection)
    .await?;
    Ok(part.map(|part| ((part.orderid, part.sku), part.lines.unsigned_abs())))
}

/// One statement sees lines and rows as one commit left them: what differs in it is wrong.
async fn find_drift(
    connection: &mut PgConnection,
    (after_orderid, after_sku): &LineKey,
    (last_orderid, last_sku): &LineKey,
) -> Result<Vec<LineKey>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select coalesce(l.orderid, v.orderid) as "orderid!", coalesce(l.sku, v.sku) as "sku!"
           from (select orderid, sku, qty, batchref from order_lines
                 where (orderid, sku) > ($1, $2) and (orderid, sku) <= ($3, $4)) as l
           full join (select orderid, sku, qty, batchref from allocations_view
                      where (orderid, sku) > ($1, $2) and (orderid, sku) <= ($3, $4)) as v
                on l.orderid = v.orderid and l.sku = v.sku
           where (l.qty, l.batchref) is distinct from (v.qty, v.batchref)"#,
        after_orderid,
        after_sku,
        last_orderid,
        last_sku,
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.orderid, row.sku)).collect())
}

/// As statements take them: orders and SKUs, side by side.
fn columns(keys: &[LineKey]) -> (Vec<&str>, Vec<&str>) {
    keys.iter().map(|(orderid, sku)| (orderid.as_str(), sku.as_str())).unzip()
}

async fn lock_products(connection: &mut PgConnection, keys: &[LineKey]) -> Result<(), sqlx::Error> {
    let (_, skus) = columns(keys);
    sqlx::query!(
        "select sku from products where sku = any($1) order by sku for no key update",
        &skus as &[&str]
    )
    .fetch_all(connection)
    .await?;
    Ok(())
}

async fn delete_orphans(connection: &mut PgConnection, keys: &[LineKey]) -> Result<u64, sqlx::Error> {
    let (orderids, skus) = columns(keys);
    let removed = sqlx::query!(
        "delete from allocations_view as v using unnest($1::text[], $2::text[]) as k (orderid, sku)
         where v.orderid = k.orderid and v.sku = k.sku
           and not exists (select from order_lines l where l.orderid = k.orderid and l.sku = k.sku)",
        &orderids as &[&str],
        &skus as &[&str],
    )
    .execute(connection)
    .await?;
    Ok(removed.rows_affected())
}

async fn upsert_from_lines(connection: &mut PgConnection, keys: &[LineKey]) -> Result<u64, sqlx::Error> {
    let (orderids, skus) = columns(keys);
    let written = sqlx::query!(
        "insert into allocations_view as v (orderid, sku, qty, batchref)
         select l.orderid, l.sku, l.qty, l.batchref
         from unnest($1::text[], $2::text[]) as k (orderid, sku)
         join order_lines l on l.orderid = k.orderid and l.sku = k.sku
         on conflict (orderid, sku) do update set qty = excluded.qty, batchref = excluded.batchref
         where (v.qty, v.batchref) is distinct from (excluded.qty, excluded.batchref)",
        &orderids as &[&str],
        &skus as &[&str],
    )
    .execute(connection)
    .await?;
    Ok(written.rows_affected())
}

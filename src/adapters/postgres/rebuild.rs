//! Repairs the read model from the lines while the service runs.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::PgConnection;

use crate::{
    pg::{PgConfig, Pool, PooledSession},
    ports::{
        admin::{ReadModel, RebuildReport},
        error::StoreError,
    },
};

/// Lines that one statement compares.
const RANGE_SIZE: i64 = 20_000;
/// Attempts to lock products that other transactions lock.
const LOCK_ATTEMPTS: usize = 10;

/// The maintenance of the read model of a database.
pub struct PgReadModel {
    pool: Pool,
    timeout: Duration,
}

/// A line, by order and SKU.
type LineKey = (String, String);

impl PgReadModel {
    /// On a pool, with the time limit of its configuration.
    #[must_use]
    pub fn new(pool: impl Into<Pool>, config: &PgConfig) -> Self {
        Self { pool: pool.into(), timeout: config.timeout }
    }
}

#[async_trait]
impl ReadModel for PgReadModel {
    async fn rebuild(
        &self,
        progress: &(dyn Fn(RebuildReport) + Send + Sync),
    ) -> Result<RebuildReport, StoreError> {
        let (mut report, mut after) = (RebuildReport::default(), LineKey::default());
        loop {
            let mut session = PooledSession::open(&self.pool, self.timeout).await?;
            let range = session.run(async |connection| next_range(connection, &after).await).await?;
            let Some((last, lines)) = range else {
                session.finish().await?;
                return Ok(report);
            };
            let drift = session.run(async |connection| find_drift(connection, &after, &last).await).await?;
            session.finish().await?;
            report.lines += lines;
            if !drift.is_empty() {
                report.differed += self.repair_through_conflicts(&drift).await?;
            }
            progress(report);
            after = last;
        }
    }
}

impl PgReadModel {
    async fn repair_through_conflicts(&self, keys: &[LineKey]) -> Result<u64, StoreError> {
        for _ in 1..LOCK_ATTEMPTS {
            match self.repair(keys).await {
                Err(error) if error.is_conflict() => {} // After `lock_timeout`, so there is no further delay.
                outcome => return outcome,
            }
        }
        self.repair(keys).await
    }

    /// Repairs the rows while their products are locked, so that the lines do not change. Some rows may be correct by then.
    async fn repair(&self, keys: &[LineKey]) -> Result<u64, StoreError> {
        let mut session = PooledSession::begin(&self.pool, self.timeout).await?;
        let repaired = session.run(async |connection| {
            lock_products(connection, keys).await?;
            Ok(delete_orphans(connection, keys).await? + upsert_from_lines(connection, keys).await?)
        });
        match repaired.await {
            Ok(count) => session.commit().await.map(|()| count),
            Err(error) => {
                session.rollback().await;
                Err(error)
            }
        }
    }
}

/// The next lines and rows after a key: the last key and their number.
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
        RANGE_SIZE,
    )
    .fetch_optional(connection)
    .await?;
    Ok(part.map(|part| ((part.orderid, part.sku), part.lines.unsigned_abs())))
}

/// The keys of the rows that differ from their lines. One statement sees one snapshot: a concurrent commit is not drift.
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

/// Order ids and SKUs as parameters of a statement.
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

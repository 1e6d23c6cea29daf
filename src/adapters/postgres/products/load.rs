//! Loads products with as many batches and lines as the commands need.

use std::collections::{BTreeSet, HashMap};

use sqlx::PgConnection;

use crate::{
    domain::{BatchRef, Line, OrderId, Product, Sku},
    pg::PooledSession,
    ports::{error::StoreError, store::WorkingSet},
};

use super::{
    batches,
    convert::{decode, integer, line_from_row},
};

/// Lines that are attached without a pause.
const LINES_AT_ONCE: usize = 500;

/// Loads and locks the products of the working set, with their first open batches and what the working set names.
pub(in crate::adapters::postgres) async fn load(
    connection: &mut PgConnection,
    working_set: &WorkingSet,
) -> Result<Vec<Product>, sqlx::Error> {
    let mut skus: BTreeSet<_> = working_set.skus.iter().map(|sku| sku.as_str().to_owned()).collect();
    if !working_set.batches.is_empty() {
        skus.extend(skus_of_batches(connection, &working_set.batches).await?);
    }
    let skus: Vec<_> = skus.into_iter().collect();
    let mut products = lock(connection, &skus).await?;
    let mut references: BTreeSet<_> = working_set.batches.iter().map(BatchRef::to_string).collect();
    for (sku, orderid, line) in lines(connection, &working_set.lines).await? {
        references.extend(line.batch.as_ref().map(BatchRef::to_string));
        if let Some(product) = products.get_mut(&sku) {
            product.attach_line(orderid, line);
        }
    }
    batches::attach(connection, &mut products, &references.into_iter().collect::<Vec<_>>()).await?;
    Ok(products.into_values().collect())
}

async fn skus_of_batches(
    connection: &mut PgConnection,
    references: &BTreeSet<BatchRef>,
) -> Result<Vec<String>, sqlx::Error> {
    let references: Vec<_> = references.iter().map(BatchRef::as_str).collect();
    sqlx::query_scalar!("select sku from batches where ref = any($1)", &references as &[&str])
        .fetch_all(connection)
        .await
}

/// Locks the products in SKU order, so that two transactions cannot deadlock.
async fn lock(
    connection: &mut PgConnection,
    skus: &[String],
) -> Result<HashMap<String, Product>, sqlx::Error> {
    let rows = sqlx::query!(
        "select sku, version, event_sequence, last_place, backordered
         from products where sku = any($1) order by sku for no key update",
        skus,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let sku = decode(Sku::new(&row.sku))?;
            let backordered = decode(u64::try_from(row.backordered))?;
            Ok((
                row.sku,
                Product::from_stored(sku, row.version, row.event_sequence, row.last_place, backordered),
            ))
        })
        .collect()
}

async fn lines(
    connection: &mut PgConnection,
    keys: &BTreeSet<(Sku, OrderId)>,
) -> Result<Vec<(String, OrderId, Line)>, sqlx::Error> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let (skus, orderids): (Vec<_>, Vec<_>) =
        keys.iter().map(|(sku, orderid)| (sku.as_str(), orderid.as_str())).unzip();
    let rows = sqlx::query!(
        r#"select l.orderid, l.sku, l.qty, l.place, l.batchref as "batchref?"
           from unnest($1::text[], $2::text[]) as asked (sku, orderid)
           join order_lines l on l.orderid = asked.orderid and l.sku = asked.sku"#,
        &skus as &[&str],
        &orderids as &[&str],
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let (orderid, line) = line_from_row(&row.orderid, row.qty, row.place, row.batchref.as_deref())?;
            Ok((row.sku, orderid, line))
        })
        .collect()
}

/// Attaches the oldest backorders of each quantity that fits into a batch, as many as fit. The recursive query skips from
/// one quantity to the next in the index, so that the cost depends on the freed stock and not on the backorders.
pub(in crate::adapters::postgres) async fn load_waiting_lines(
    session: &mut PooledSession,
    product: &mut Product,
) -> Result<(), StoreError> {
    let available: Vec<_> = product.freed_stock().map(integer).collect();
    let known: Vec<_> = product.known_lines().map(OrderId::as_str).collect();
    let waiting = sqlx::query!(
        r#"with recursive quantities as (
               select min(qty) as qty from order_lines where sku = $1 and batchref is null
               union all
               select (select min(qty) from order_lines where sku = $1 and batchref is null and qty > quantities.qty)
               from quantities where quantities.qty < $4
           )
           select waiting.orderid as "orderid!", waiting.qty as "qty!", waiting.place as "place!"
           from quantities
           cross join lateral (
               select orderid, qty, place from order_lines
               where sku = $1 and batchref is null and qty = quantities.qty and orderid <> all($3)
               order by place
               limit (select sum(available / quantities.qty) from pg_catalog.unnest($2::integer[]) as available)
           ) as waiting
           where quantities.qty <= $4"#,
        product.sku().as_str(),
        &available,
        &known as &[&str],
        available.iter().max(),
    );
    let line = session.rows(
        |connection| waiting.fetch(connection),
        |row| line_from_row(&row.orderid, row.qty, row.place, None),
    );
    let lines = line.await?;
    attach(product, lines).await;
    Ok(())
}

/// Other work continues in between: there may be very many.
async fn attach(product: &mut Product, lines: Vec<(OrderId, Line)>) {
    for (number, (orderid, line)) in lines.into_iter().enumerate() {
        if number % LINES_AT_ONCE == 0 {
            tokio::task::yield_now().await;
        }
        product.attach_line(orderid, line);
    }
}

/// Attaches the newest lines of a batch until they have `units`. A line has at least one unit, which limits the rows read.
pub(in crate::adapters::postgres) async fn load_newest_lines(
    session: &mut PooledSession,
    product: &mut Product,
    batch: &BatchRef,
    units: u32,
) -> Result<(), StoreError> {
    let known: Vec<_> = product.known_lines().map(OrderId::as_str).collect();
    let newest = sqlx::query!(
        r#"select orderid as "orderid!", qty as "qty!", place as "place!"
           from (
               select orderid, qty, place, sum(qty) over (order by place desc) - qty as held_by_newer
               from (
                   select orderid, qty, place from order_lines
                   where batchref = $1 and orderid <> all($3)
                   order by place desc limit $2
               ) as newest
           ) as counted
           where held_by_newer < $2"#,
        batch.as_str(),
        i64::from(units),
        &known as &[&str],
    );
    let line = session.rows(
        |connection| newest.fetch(connection),
        |row| line_from_row(&row.orderid, row.qty, row.place, Some(batch.as_str())),
    );
    let lines = line.await?;
    attach(product, lines).await;
    Ok(())
}

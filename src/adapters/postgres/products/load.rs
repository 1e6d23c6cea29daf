//! Loads products with as many batches and lines as the commands need.

use std::collections::{BTreeSet, HashMap};

use sqlx::PgConnection;

use crate::{
    domain::{BatchRef, Line, OrderId, Product, Sku},
    pg::PooledSession,
    ports::{
        error::StoreError,
        store::{LoadedProducts, LockMode, LockedRows, WorkingSet},
    },
};

use super::{
    batches,
    convert::{decode, integer, line_from_row},
    lock,
};

/// Lines that are attached without a pause.
const LINES_AT_ONCE: usize = 500;

/// Loads and locks the products of the working set, with their first open batches and what the working set names.
pub(in crate::adapters::postgres) async fn load(
    connection: &mut PgConnection,
    working_set: &WorkingSet,
    locks: LockMode,
) -> Result<LoadedProducts, sqlx::Error> {
    let named = skus_of_batches(connection, &working_set.batches).await?;
    let mut skus: BTreeSet<_> = working_set.skus.iter().map(|sku| sku.as_str().to_owned()).collect();
    skus.extend(named.iter().map(|(_, sku)| sku.clone()));
    let not_awaited = match locks {
        LockMode::Wait => lately(&working_set.locked_lately, &named),
        LockMode::Skip => skus.clone(),
    };
    let awaited: Vec<_> = skus.difference(&not_awaited).cloned().collect();
    let mut products =
        if awaited.is_empty() { HashMap::new() } else { lock::wait(connection, &awaited).await? };
    let mut locked = LockedRows::default();
    if !not_awaited.is_empty() {
        let skus: Vec<_> = not_awaited.into_iter().collect();
        let free = lock::skip(connection, &skus).await?;
        if free.len() < skus.len() {
            locked = locked_rows(lock::existing(connection, &skus).await?, &free, named)?;
        }
        products.extend(free);
    }
    let mut references: BTreeSet<_> = working_set.batches.iter().map(BatchRef::to_string).collect();
    for (sku, orderid, line) in lines(connection, &working_set.lines).await? {
        references.extend(line.batch.as_ref().map(BatchRef::to_string));
        if let Some(product) = products.get_mut(&sku) {
            product.attach_line(orderid, line);
        }
    }
    batches::attach(connection, &mut products, &references.into_iter().collect::<Vec<_>>()).await?;
    Ok(LoadedProducts { products: products.into_values().collect(), locked })
}

/// The SKUs of what was locked lately. `named` are the batches of the working set, with their SKUs.
fn lately(rows: &LockedRows, named: &[(String, String)]) -> BTreeSet<String> {
    let is_locked = |reference: &str| rows.batches.iter().any(|batch| batch.as_str() == reference);
    let of_batches = named.iter().filter(|(reference, _)| is_locked(reference)).map(|(_, sku)| sku.clone());
    rows.skus.iter().map(|sku| sku.as_str().to_owned()).chain(of_batches).collect()
}

/// The products that exist and were not loaded, and the named batches that belong to them.
fn locked_rows(
    existing: Vec<String>,
    loaded: &HashMap<String, Product>,
    named: Vec<(String, String)>,
) -> Result<LockedRows, sqlx::Error> {
    let locked: BTreeSet<_> = existing.into_iter().filter(|sku| !loaded.contains_key(sku)).collect();
    let batches = named.into_iter().filter(|(_, sku)| locked.contains(sku));
    let batches: Result<_, _> = batches.map(|(reference, _)| decode(BatchRef::new(&reference))).collect();
    let skus: Result<_, _> = locked.iter().map(|sku| decode(Sku::new(sku))).collect();
    Ok(LockedRows { skus: skus?, batches: batches? })
}

/// The batches that exist, each with its SKU.
async fn skus_of_batches(
    connection: &mut PgConnection,
    references: &BTreeSet<BatchRef>,
) -> Result<Vec<(String, String)>, sqlx::Error> {
    if references.is_empty() {
        return Ok(Vec::new());
    }
    let references: Vec<_> = references.iter().map(BatchRef::as_str).collect();
    let rows =
        sqlx::query!("select ref as reference, sku from batches where ref = any($1)", &references as &[&str]);
    Ok(rows.fetch_all(connection).await?.into_iter().map(|row| (row.reference, row.sku)).collect())
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
/// one quantity to the next in the index, so that the cost depends on the freed stock and not on the backorders. (`min(qty)`
/// would read all of them with a plan that was made while there were few.)
pub(in crate::adapters::postgres) async fn load_waiting_lines(
    session: &mut PooledSession,
    product: &mut Product,
) -> Result<(), StoreError> {
    let available: Vec<_> = product.freed_stock().map(integer).collect();
    let known: Vec<_> = product.known_lines().map(OrderId::as_str).collect();
    let waiting = sqlx::query!(
        r#"with recursive quantities as (
               (select qty from order_lines where sku = $1 and batchref is null order by qty limit 1)
               union all
               select (
                   select qty from order_lines
                   where sku = $1 and batchref is null and qty > quantities.qty order by qty limit 1
               )
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

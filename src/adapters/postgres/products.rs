//! Products with their batches and lines: read as far as needed, written by difference.

use std::collections::{BTreeSet, HashMap};

use sqlx::PgConnection;
use time::Date;

use crate::{
    domain::{Batch, BatchRef, Line, OrderId, Product, ProductChanges, Quantity, Sku},
    ports::{error::StoreError, store::WorkingSet},
};

use super::session::PooledSession;

/// Loads and holds the products in the footprint.
pub(super) async fn load(
    connection: &mut PgConnection,
    working_set: &WorkingSet,
) -> Result<Vec<Product>, sqlx::Error> {
    let mut skus: BTreeSet<_> = working_set.skus.iter().map(|sku| sku.as_str().to_owned()).collect();
    if !working_set.batches.is_empty() {
        skus.extend(skus_of_batches(connection, &working_set.batches).await?);
    }
    let skus: Vec<_> = skus.into_iter().collect();
    let mut products = lock(connection, &skus).await?;
    let mut batches: BTreeSet<_> = working_set.batches.iter().map(BatchRef::to_string).collect();
    for (sku, orderid, line) in lines(connection, &working_set.lines).await? {
        batches.extend(line.batch.as_ref().map(BatchRef::to_string));
        if let Some(product) = products.get_mut(&sku) {
            product.attach_line(orderid, line);
        }
    }
    for (sku, batch) in batches_of(connection, &skus, &batches.into_iter().collect::<Vec<_>>()).await? {
        if let Some(product) = products.get_mut(&sku) {
            product.attach_batch(batch);
        }
    }
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

/// Holds the products against others, in SKU order: whoever holds one never waits for a smaller one.
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
            let (orderid, line) = restored_line(&row.orderid, row.qty, row.place, row.batchref.as_deref())?;
            Ok((row.sku, orderid, line))
        })
        .collect()
}

/// The batches of products that have something available, and those that are named. The second part says `not open` in
/// other words, for an index of used-up batches is the wrong way to find one by its name.
async fn batches_of(
    connection: &mut PgConnection,
    skus: &[String],
    references: &[String],
) -> Result<Vec<(String, Batch)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select ref as "reference!", sku as "sku!", ordered as "ordered!", purchased as "purchased!",
                  allocated as "allocated!", eta, revision
           from batches where sku = any($1) and open
           union all
           select ref, sku, ordered, purchased, allocated, eta, revision
           from batches where ref = any($2) and allocated >= purchased"#,
        skus,
        references,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let [ordered, purchased, allocated] =
                [row.ordered, row.purchased, row.allocated].map(u32::try_from);
            let reference = decode(BatchRef::new(&row.reference))?;
            let (ordered, purchased, allocated) = (decode(ordered)?, decode(purchased)?, decode(allocated)?);
            Ok((row.sku, Batch::from_stored(reference, row.eta, ordered, purchased, allocated, row.revision)))
        })
        .collect()
}

/// Of each quantity that fits in some batch, the oldest waiting lines, as many as fit. The quantities are found by
/// jumping from one to the next in the index, so that the cost follows the available stock, not the backorders.
pub(super) async fn load_waiting_lines(
    session: &mut PooledSession,
    product: &mut Product,
) -> Result<(), StoreError> {
    let available: Vec<_> = product.batches().iter().map(|batch| integer(batch.available())).collect();
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
               limit (select sum(available / quantities.qty) from unnest($2::integer[]) as available)
           ) as waiting
           where quantities.qty <= $4"#,
        product.sku().as_str(),
        &available,
        &known as &[&str],
        available.iter().max(),
    );
    let line = session.rows(
        |connection| waiting.fetch(connection),
        |row| restored_line(&row.orderid, row.qty, row.place, None),
    );
    line.await?.into_iter().for_each(|(orderid, line)| product.attach_line(orderid, line));
    Ok(())
}

/// The newest lines until they hold `units`. Every line holds one at least, which bounds what is read.
pub(super) async fn load_newest_lines(
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
        |row| restored_line(&row.orderid, row.qty, row.place, Some(batch.as_str())),
    );
    line.await?.into_iter().for_each(|(orderid, line)| product.attach_line(orderid, line));
    Ok(())
}

/// Whether the products were still as they had been loaded.
pub(super) enum VersionCheck {
    Match,
    Conflict,
}

/// Lines that one statement writes: so few that a database which works is never taken for one that is silent, however much
/// stock arrives at once.
const LINES_AT_ONCE: usize = 5_000;

/// Writes what changed in products that are held.
pub(super) async fn write(
    session: &mut PooledSession,
    products: &[Product],
) -> Result<VersionCheck, StoreError> {
    if products.is_empty() {
        return Ok(VersionCheck::Match);
    }
    let (known, new): (Vec<_>, Vec<_>) = products.iter().partition(|product| product.version() > 0);
    session.run(async |connection| insert_products(connection, &new).await).await?;
    let updated = session.run(async |connection| update_products(connection, &known).await).await?;
    if updated != known.len() as u64 {
        return Ok(VersionCheck::Conflict);
    }
    let changes: Vec<_> =
        products.iter().map(|product| (product.sku().as_str(), product.changes())).collect();
    session.run(async |connection| insert_batches(connection, &changes).await).await?;
    session.run(async |connection| update_batches(connection, &changes).await).await?;
    for removed in removed_lines(&changes).chunks(LINES_AT_ONCE) {
        session.run(async |connection| delete_lines(connection, removed).await).await?;
    }
    for new in lines_of(&changes, |changes| &changes.new_lines).chunks(LINES_AT_ONCE) {
        session.run(async |connection| insert_lines(connection, new).await).await?;
    }
    for moved in lines_of(&changes, |changes| &changes.moved_lines).chunks(LINES_AT_ONCE) {
        session.run(async |connection| move_lines(connection, moved).await).await?;
    }
    Ok(VersionCheck::Match)
}

type Changes<'a> = [(&'a str, ProductChanges<'a>)];

async fn insert_products(connection: &mut PgConnection, products: &[&Product]) -> Result<(), sqlx::Error> {
    if products.is_empty() {
        return Ok(());
    }
    let (skus, sequences, positions, backordered) = product_columns(products);
    sqlx::query!(
        "insert into products (sku, version, event_sequence, last_place, backordered)
         select sku, 1, event_sequence, last_place, backordered
         from unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[])
              as new (sku, event_sequence, last_place, backordered)",
        &skus as &[&str],
        &sequences,
        &positions,
        &backordered,
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn update_products(connection: &mut PgConnection, products: &[&Product]) -> Result<u64, sqlx::Error> {
    if products.is_empty() {
        return Ok(0);
    }
    let (skus, sequences, positions, backordered) = product_columns(products);
    let versions: Vec<_> = products.iter().map(|product| product.version()).collect();
    let done = sqlx::query!(
        "update products as p
         set version = p.version + 1, event_sequence = new.event_sequence, last_place = new.last_place,
             backordered = new.backordered
         from unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
              as new (sku, event_sequence, last_place, backordered, version)
         where p.sku = new.sku and p.version = new.version",
        &skus as &[&str],
        &sequences,
        &positions,
        &backordered,
        &versions,
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

type ProductColumns<'a> = (Vec<&'a str>, Vec<i64>, Vec<i64>, Vec<i64>);

fn product_columns<'a>(products: &[&'a Product]) -> ProductColumns<'a> {
    (
        products.iter().map(|product| product.sku().as_str()).collect(),
        products.iter().map(|product| product.sequence()).collect(),
        products.iter().map(|product| product.last_position()).collect(),
        products.iter().map(|product| i64::try_from(product.backordered()).unwrap_or(i64::MAX)).collect(),
    )
}

async fn insert_batches(connection: &mut PgConnection, changes: &Changes<'_>) -> Result<(), sqlx::Error> {
    let mut new: Vec<_> = changes
        .iter()
        .flat_map(|(sku, changes)| changes.new_batches.iter().map(move |batch| (*sku, *batch)))
        .collect();
    if new.is_empty() {
        return Ok(());
    }
    // By reference, so that two transactions that create the same batches never wait for each other.
    new.sort_unstable_by(|(_, one), (_, other)| one.reference.cmp(&other.reference));
    sqlx::query!(
        "insert into batches (ref, sku, ordered, purchased, allocated, eta, revision)
         select * from unnest($1::text[], $2::text[], $3::integer[], $4::integer[], $5::integer[], $6::date[],
                              $7::bigint[])",
        &new.iter().map(|(_, batch)| batch.reference.as_str()).collect::<Vec<_>>() as &[&str],
        &new.iter().map(|(sku, _)| *sku).collect::<Vec<_>>() as &[&str],
        &new.iter().map(|(_, batch)| integer(batch.ordered())).collect::<Vec<_>>(),
        &new.iter().map(|(_, batch)| integer(batch.purchased())).collect::<Vec<_>>(),
        &new.iter().map(|(_, batch)| integer(batch.allocated())).collect::<Vec<_>>(),
        &new.iter().map(|(_, batch)| batch.eta).collect::<Vec<_>>() as &[Option<Date>],
        &new.iter().map(|(_, batch)| batch.revision()).collect::<Vec<_>>() as &[Option<i64>],
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn update_batches(connection: &mut PgConnection, changes: &Changes<'_>) -> Result<(), sqlx::Error> {
    let batches: Vec<_> = changes.iter().flat_map(|(_, changes)| &changes.changed_batches).collect();
    if batches.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "update batches as b
         set purchased = new.purchased, allocated = new.allocated, revision = new.revision
         from unnest($1::text[], $2::integer[], $3::integer[], $4::bigint[])
              as new (ref, purchased, allocated, revision)
         where b.ref = new.ref",
        &batches.iter().map(|batch| batch.reference.as_str()).collect::<Vec<_>>() as &[&str],
        &batches.iter().map(|batch| integer(batch.purchased())).collect::<Vec<_>>(),
        &batches.iter().map(|batch| integer(batch.allocated())).collect::<Vec<_>>(),
        &batches.iter().map(|batch| batch.revision()).collect::<Vec<_>>() as &[Option<i64>],
    )
    .execute(connection)
    .await?;
    Ok(())
}

fn removed_lines<'a>(changes: &'a Changes<'a>) -> Vec<(&'a str, &'a str)> {
    let of_product = |(sku, changes): &'a (&'a str, ProductChanges<'a>)| {
        changes.removed_lines.iter().map(move |orderid| (*sku, orderid.as_str()))
    };
    changes.iter().flat_map(of_product).collect()
}

async fn delete_lines(connection: &mut PgConnection, lines: &[(&str, &str)]) -> Result<(), sqlx::Error> {
    let (skus, orderids): (Vec<_>, Vec<_>) = lines.iter().copied().unzip();
    sqlx::query!(
        "delete from order_lines as l using unnest($1::text[], $2::text[]) as gone (sku, orderid)
         where l.orderid = gone.orderid and l.sku = gone.sku",
        &skus as &[&str],
        &orderids as &[&str],
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_lines(connection: &mut PgConnection, lines: &[LineOf<'_>]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into order_lines (sku, orderid, batchref, qty, place)
         select * from unnest($1::text[], $2::text[], $3::text[], $4::integer[], $5::bigint[])",
        &column(lines, |line| line.sku) as &[&str],
        &column(lines, |line| line.orderid.as_str()) as &[&str],
        &column(lines, LineOf::batch) as &[Option<&str>],
        &column(lines, |line| integer(line.line.quantity.get())),
        &column(lines, |line| line.line.position),
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn move_lines(connection: &mut PgConnection, lines: &[LineOf<'_>]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update order_lines as l set batchref = moved.batchref
         from unnest($1::text[], $2::text[], $3::text[]) as moved (sku, orderid, batchref)
         where l.orderid = moved.orderid and l.sku = moved.sku",
        &column(lines, |line| line.sku) as &[&str],
        &column(lines, |line| line.orderid.as_str()) as &[&str],
        &column(lines, LineOf::batch) as &[Option<&str>],
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A line with its key.
#[derive(Clone, Copy)]
struct LineOf<'a> {
    sku: &'a str,
    orderid: &'a OrderId,
    line: &'a Line,
}

impl<'a> LineOf<'a> {
    fn batch(&self) -> Option<&'a str> {
        self.line.batch.as_ref().map(BatchRef::as_str)
    }
}

fn lines_of<'a>(
    changes: &'a Changes<'a>,
    which: impl Fn(&'a ProductChanges<'a>) -> &'a Vec<(&'a OrderId, &'a Line)>,
) -> Vec<LineOf<'a>> {
    let of_product = |(sku, changes): &'a (&'a str, ProductChanges<'a>)| {
        which(changes).iter().map(move |(orderid, line)| LineOf { sku, orderid, line })
    };
    changes.iter().flat_map(of_product).collect()
}

fn column<'a, T>(lines: &[LineOf<'a>], of: impl Fn(&LineOf<'a>) -> T) -> Vec<T> {
    lines.iter().map(of).collect()
}

fn restored_line(
    orderid: &str,
    quantity: i32,
    position: i64,
    batch: Option<&str>,
) -> Result<(OrderId, Line), sqlx::Error> {
    let line = Line {
        quantity: decode(Quantity::new(quantity))?,
        position,
        batch: batch.map(BatchRef::new).transpose().map_err(|error| sqlx::Error::Decode(error.into()))?,
    };
    Ok((decode(OrderId::new(orderid))?, line))
}

/// Numbers of the domain end where a Postgres integer does.
fn integer(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// What the database gives back was valid when it was written.
fn decode<T, E: std::error::Error + Send + Sync + 'static>(value: Result<T, E>) -> Result<T, sqlx::Error> {
    value.map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

//! Writes the changes of products, one statement per kind of change.

use sqlx::PgConnection;
use time::Date;

use crate::{
    domain::{BatchRef, Line, OrderId, Product, ProductChanges},
    pg::PooledSession,
    ports::error::StoreError,
};

use super::convert::integer;

/// Lines that one statement writes, so that a statement does not exceed `database.timeout` however much stock arrives.
const LINES_PER_STATEMENT: usize = 5_000;

/// Whether the stored products had the versions that were loaded.
pub(in crate::adapters::postgres) enum VersionCheck {
    Match,
    Conflict,
}

/// Writes the changes of locked products.
pub(in crate::adapters::postgres) async fn write(
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
    for removed in removed_lines(&changes).chunks(LINES_PER_STATEMENT) {
        session.run(async |connection| delete_lines(connection, removed).await).await?;
    }
    for new in lines_of(&changes, |changes| &changes.new_lines).chunks(LINES_PER_STATEMENT) {
        session.run(async |connection| insert_lines(connection, new).await).await?;
    }
    for moved in lines_of(&changes, |changes| &changes.moved_lines).chunks(LINES_PER_STATEMENT) {
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
    // By reference, so that two transactions that create the same batches cannot deadlock.
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

/// A line of a product.
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

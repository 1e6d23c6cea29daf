//! Loads batches of products: the first open ones, the named ones, and those that a search finds.

use std::collections::HashMap;

use sqlx::PgConnection;
use time::Date;

use crate::domain::{Batch, BatchRef, BatchSearch, Product, SizeClass, Sku};

use super::convert::{decode, integer};

/// A row of a batch.
struct BatchRow {
    reference: String,
    ordered: i32,
    purchased: i32,
    allocated: i32,
    eta: Option<Date>,
    revision: Option<i64>,
}

impl BatchRow {
    fn decode(self) -> Result<Batch, sqlx::Error> {
        let [ordered, purchased, allocated] =
            [self.ordered, self.purchased, self.allocated].map(u32::try_from);
        let reference = decode(BatchRef::new(&self.reference))?;
        let (ordered, purchased, allocated) = (decode(ordered)?, decode(purchased)?, decode(allocated)?);
        Ok(Batch::from_stored(reference, self.eta, ordered, purchased, allocated, self.revision))
    }
}

/// Attaches the named batches to their products, and to each product the batches of its first search.
pub(super) async fn attach(
    connection: &mut PgConnection,
    products: &mut HashMap<String, Product>,
    references: &[String],
) -> Result<(), sqlx::Error> {
    let skus: Vec<_> = products.keys().cloned().collect();
    let first = BatchSearch::FIRST;
    let rows = sqlx::query!(
        r#"select first.ref as "reference!", first.sku as "sku!", ordered as "ordered!", purchased as "purchased!",
                  allocated as "allocated!", eta, revision, false as "named!"
           from pg_catalog.unnest($1::text[]) as asked (sku)
           cross join lateral (
               select ref, sku, ordered, purchased, allocated, eta, revision from batches
               where sku = asked.sku and open order by eta nulls first, ref collate "C" limit $2
           ) as first
           union all
           select ref, sku, ordered, purchased, allocated, eta, revision, true from batches where ref = any($3)"#,
        &skus,
        i64::try_from(first.at_most).unwrap_or(i64::MAX),
        references,
    )
    .fetch_all(connection)
    .await?;
    let mut found: HashMap<_, Vec<_>> = skus.iter().map(|sku| (sku.as_str(), Vec::new())).collect();
    for row in rows {
        let (reference, ordered, purchased, allocated) =
            (row.reference, row.ordered, row.purchased, row.allocated);
        let (eta, revision) = (row.eta, row.revision);
        let batch = BatchRow { reference, ordered, purchased, allocated, eta, revision }.decode()?;
        if row.named {
            if let Some(product) = products.get_mut(&row.sku) {
                product.attach_batch(batch);
            }
        } else if let Some(found) = found.get_mut(row.sku.as_str()) {
            found.push(batch);
        }
    }
    for (sku, found) in found {
        if let Some(product) = products.get_mut(sku) {
            product.attach_found(&first, found);
        }
    }
    Ok(())
}

/// The result of a search.
pub(in crate::adapters::postgres) async fn search(
    connection: &mut PgConnection,
    sku: &Sku,
    search: &BatchSearch,
) -> Result<Vec<Batch>, sqlx::Error> {
    let class = SizeClass::of(search.quantity);
    let is_least = class.least() == u64::from(search.quantity);
    // Every batch of these classes has enough available, and in the class before them, some have.
    let enough = if is_least { class } else { class.next() };
    let enough_from = i64::try_from(enough.least()).unwrap_or(i64::MAX);
    let rows = sqlx::query_file_as!(
        BatchRow,
        "src/adapters/postgres/products/search.sql",
        sku.as_str(),
        i16::try_from(enough.number()).unwrap_or(i16::MAX),
        integer(search.quantity),
        enough_from,
        search.after.as_ref().and_then(|rank| rank.eta),
        search.after.as_ref().map_or("", |rank| rank.reference.as_str()),
        i64::try_from(search.at_most).unwrap_or(i64::MAX),
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(BatchRow::decode).collect()
}

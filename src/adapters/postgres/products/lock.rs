//! Locks the rows of products, in SKU order, so that two transactions cannot deadlock.

use std::collections::HashMap;

use sqlx::PgConnection;

use crate::domain::{Product, Sku};

use super::convert::decode;

struct Row {
    sku: String,
    version: i64,
    event_sequence: i64,
    last_place: i64,
    backordered: i64,
}

/// Locks the products that exist, and waits for those that are locked.
pub(super) async fn wait(
    connection: &mut PgConnection,
    skus: &[String],
) -> Result<HashMap<String, Product>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Row,
        "select sku, version, event_sequence, last_place, backordered
         from products where sku = any($1) order by sku for no key update",
        skus,
    );
    products(rows.fetch_all(connection).await?)
}

/// Locks the products that exist and are not locked.
pub(super) async fn skip(
    connection: &mut PgConnection,
    skus: &[String],
) -> Result<HashMap<String, Product>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Row,
        "select sku, version, event_sequence, last_place, backordered
         from products where sku = any($1) order by sku for no key update skip locked",
        skus,
    );
    products(rows.fetch_all(connection).await?)
}

/// Which of these products exist, locked or not.
pub(super) async fn existing(
    connection: &mut PgConnection,
    skus: &[String],
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!("select sku from products where sku = any($1)", skus).fetch_all(connection).await
}

fn products(rows: Vec<Row>) -> Result<HashMap<String, Product>, sqlx::Error> {
    let product = |Row { sku, version, event_sequence, last_place, backordered }| {
        let (name, backordered) = (decode(Sku::new(&sku))?, decode(u64::try_from(backordered))?);
        Ok((sku, Product::from_stored(name, version, event_sequence, last_place, backordered)))
    };
    rows.into_iter().map(product).collect()
}

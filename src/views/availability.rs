//! The stock of a product.

use serde::Serialize;
use time::Date;

use crate::ports::error::StoreError;

use super::handle::Views;

/// Batches without available stock in a result, those with the latest eta. Their number grows without limit.
const MAX_USED_UP: i64 = 100;

time::serde::format_description!(day, Date, "[year]-[month]-[day]");

/// The batches of a product, and its backorders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Availability {
    /// The SKU.
    pub sku: String,
    /// Its batches in the order of allocation: all with available stock, and the latest of the others.
    pub batches: Vec<AvailableBatch>,
    /// Units of its backorders.
    pub backordered: i64,
}

/// The quantities of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AvailableBatch {
    /// Its reference.
    pub batchref: String,
    /// The day of its arrival; `None` if it is in the warehouse.
    #[serde(with = "day::option")]
    pub eta: Option<Date>,
    /// The purchased quantity.
    pub purchased: i32,
    /// The quantity that is allocated to lines.
    pub allocated: i32,
    /// The quantity that is not allocated.
    pub available: i32,
}

impl Views {
    /// The stock of a product; `None` if it does not exist.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn availability(&self, sku: &str) -> Result<Option<Availability>, StoreError> {
        let rows = sqlx::query!(
            r#"select p.backordered, b.ref as "batchref?", b.eta as "eta?", b.purchased as "purchased?",
                      b.allocated as "allocated?"
               from products p
               left join lateral (
                   (select ref, eta, purchased, allocated from batches where sku = p.sku and open)
                   union all
                   (select ref, eta, purchased, allocated from batches where sku = p.sku and not open
                    order by eta desc nulls last, ref desc limit $2)
               ) as b on true
               where p.sku = $1 order by b.eta nulls first, b.ref collate "C""#,
            sku,
            MAX_USED_UP,
        );
        let rows = self.query(async |connection| rows.fetch_all(connection).await).await?;
        let Some(backordered) = rows.first().map(|row| row.backordered) else {
            return Ok(None);
        };
        let batch = |batchref, eta, purchased, allocated| {
            Some(AvailableBatch {
                batchref: batchref?,
                eta,
                purchased: purchased?,
                allocated: allocated?,
                available: purchased? - allocated?,
            })
        };
        let batches =
            rows.into_iter().filter_map(|row| batch(row.batchref, row.eta, row.purchased, row.allocated));
        Ok(Some(Availability { sku: sku.to_owned(), batches: batches.collect(), backordered }))
    }
}

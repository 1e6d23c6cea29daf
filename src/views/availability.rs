//! What there is of a product.

use serde::Serialize;
use time::Date;

use super::Views;

/// So many used-up batches are shown, those with the latest eta first; the others are history, and there is no end of it.
const USED_UP_SHOWN: i64 = 100;

time::serde::format_description!(day, Date, "[year]-[month]-[day]");

/// A product's batches, and what waits for more of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Availability {
    /// The product.
    pub sku: String,
    /// Its batches in the order of allocation: all with something available, and the last of those used up.
    pub batches: Vec<AvailableBatch>,
    /// Units in lines that wait.
    pub backordered: i64,
}

/// A batch, as far as allocation is concerned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AvailableBatch {
    /// Its reference.
    pub batchref: String,
    /// When it arrives; none when it is in the warehouse.
    #[serde(with = "day::option")]
    pub eta: Option<Date>,
    /// How many it holds in truth.
    pub purchased: i32,
    /// How many of them are promised.
    pub allocated: i32,
    /// How many are left.
    pub available: i32,
}

impl Views {
    /// What there is of a product; none if nobody has heard of it.
    ///
    /// # Errors
    /// The database is away.
    pub async fn availability(&self, sku: &str) -> Result<Option<Availability>, sqlx::Error> {
        let mut lent = self.lend().await?;
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
            USED_UP_SHOWN,
        );
        let rows = self.retry_until_available(rows.fetch_all(lent.connection())).await?;
        lent.release();
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

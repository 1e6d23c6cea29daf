//! Orders, from the read model.

use serde::Serialize;

use super::Views;

/// Where one line of an order was placed, as the book's API says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Allocation {
    /// The product.
    pub sku: String,
    /// The batch.
    pub batchref: String,
}

/// An order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Order {
    /// Its id.
    pub orderid: String,
    /// Its lines, by SKU.
    pub lines: Vec<OrderLine>,
}

/// A line of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OrderLine {
    /// The product.
    pub sku: String,
    /// How many.
    pub qty: i32,
    /// `allocated` or `backordered`.
    pub status: &'static str,
    /// The batch, if it sits in one.
    pub batchref: Option<String>,
}

impl Views {
    /// The lines of an order that sit in a batch, by SKU.
    ///
    /// # Errors
    /// The database is away.
    pub async fn allocations(&self, orderid: &str) -> Result<Vec<Allocation>, sqlx::Error> {
        let mut lent = self.lend().await?;
        let allocations = sqlx::query_as!(
            Allocation,
            r#"select sku, batchref as "batchref!" from allocations_view
               where orderid = $1 and batchref is not null order by sku collate "C""#,
            orderid,
        );
        let allocations = self.retry_until_available(allocations.fetch_all(lent.connection())).await?;
        lent.release();
        Ok(allocations)
    }

    /// An order with all its lines; none if no line of it is known.
    ///
    /// # Errors
    /// The database is away.
    pub async fn order(&self, orderid: &str) -> Result<Option<Order>, sqlx::Error> {
        let mut lent = self.lend().await?;
        let rows = sqlx::query!(
            r#"select sku, qty, batchref from allocations_view where orderid = $1 order by sku collate "C""#,
            orderid,
        );
        let rows = self.retry_until_available(rows.fetch_all(lent.connection())).await?;
        lent.release();
        if rows.is_empty() {
            return Ok(None);
        }
        let lines = rows.into_iter().map(|row| OrderLine {
            sku: row.sku,
            qty: row.qty,
            status: if row.batchref.is_some() { "allocated" } else { "backordered" },
            batchref: row.batchref,
        });
        Ok(Some(Order { orderid: orderid.to_owned(), lines: lines.collect() }))
    }
}

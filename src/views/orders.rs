//! Orders, from the read model.

use serde::Serialize;

use crate::ports::error::StoreError;

use super::handle::Views;

/// The batch of a line, as `GET /allocations` returns it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Allocation {
    /// The SKU.
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
    /// The SKU.
    pub sku: String,
    /// The quantity.
    pub qty: i32,
    /// `allocated` or `backordered`.
    pub status: &'static str,
    /// Its batch, if it is allocated.
    pub batchref: Option<String>,
}

impl Views {
    /// The allocated lines of an order, by SKU.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn allocations(&self, orderid: &str) -> Result<Vec<Allocation>, StoreError> {
        let allocations = sqlx::query_as!(
            Allocation,
            r#"select sku, batchref as "batchref!" from allocations_view
               where orderid = $1 and batchref is not null order by sku collate "C""#,
            orderid,
        );
        self.query(async |connection| allocations.fetch_all(connection).await).await
    }

    /// An order with all its lines; `None` if it has none.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn order(&self, orderid: &str) -> Result<Option<Order>, StoreError> {
        let rows = sqlx::query!(
            r#"select sku, qty, batchref from allocations_view where orderid = $1 order by sku collate "C""#,
            orderid,
        );
        let rows = self.query(async |connection| rows.fetch_all(connection).await).await?;
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

//! What the database knows about an order that is not allocated.

use crate::ports::{
    diagnosis::{FailedCommand, OrderedLine},
    error::StoreError,
};

use super::handle::Views;

/// Lines and failed commands that are read.
const MAX_ROWS: i64 = 100;
/// Batches of a SKU that are compared: those with the most free stock, to within an eighth.
const MAX_BATCHES: i64 = 100;
/// Backorders of a SKU that are read to count the earlier ones.
const MAX_BACKORDERS: i64 = 1_000;

impl Views {
    /// The lines of an order, backorders first, then by SKU. Of many, the first 100.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn order_lines(&self, orderid: &str) -> Result<Vec<OrderedLine>, StoreError> {
        let rows = sqlx::query!(
            r#"select line.sku, line.qty, line.batchref,
                      (select free from (
                           select purchased - allocated as free from batches
                           where batches.sku = line.sku and open and line.batchref is null
                           order by size_class desc limit $3
                       ) as largest order by free desc limit 1) as largest_free,
                      (select count(*) from (
                           select place from order_lines
                           where order_lines.sku = line.sku and batchref is null and line.batchref is null limit $4
                       ) as waiting where waiting.place < line.place) as "before!"
               from order_lines line where line.orderid = $1 order by line.batchref is not null, line.sku limit $2"#,
            orderid,
            MAX_ROWS,
            MAX_BATCHES,
            MAX_BACKORDERS,
        );
        let rows = self.query(async |connection| rows.fetch_all(connection).await).await?;
        let lines = rows.into_iter().map(|row| OrderedLine {
            sku: row.sku,
            qty: row.qty,
            batchref: row.batchref,
            largest_free: row.largest_free,
            backorders_before: row.before.unsigned_abs(),
        });
        Ok(lines.collect())
    }

    /// The failed commands of an order, without those after which a later command of the same line was handled.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn failed_messages_of_order(&self, orderid: &str) -> Result<Vec<FailedCommand>, StoreError> {
        let (first, end) = key_range(orderid);
        let commands = sqlx::query_as!(
            FailedCommand,
            "select id, type as kind, status, reason, error from failed_messages
             where key ~>=~ $1 and key ~<~ $2 and status <> 'resolved' and overtaken_by is null order by id limit $3",
            first,
            end,
            MAX_ROWS,
        );
        self.query(async |connection| commands.fetch_all(connection).await).await
    }
}

/// The keys of the lines of an order are those from the first text to below the second one, in the order of bytes.
pub(super) fn key_range(orderid: &str) -> (String, String) {
    let orderid = orderid.replace('%', "%25").replace('/', "%2F");
    // The next character after the slash ends the keys of the order.
    (format!("line:{orderid}/"), format!("line:{orderid}0"))
}

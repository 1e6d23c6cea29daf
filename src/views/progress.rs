//! Progress of what a sender sent.

use serde::Serialize;

use crate::ports::error::StoreError;

use super::handle::Views;

/// Progress of commands and of the orders that they belong to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SendProgress {
    /// Message ids that were handled.
    pub handled: i64,
    /// Lines of the orders that are in a batch.
    pub allocated: i64,
    /// Lines of the orders that are backorders.
    pub backordered: i64,
    /// Failed attempts of the messages.
    pub failed_attempts: i64,
}

/// What the whole system has recorded since the database was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordedTotals {
    /// Events, published or not.
    pub events: i64,
    /// Notifications that were delivered.
    pub notifications: i64,
}

impl Views {
    /// The totals so far: the difference of two calls is what happened between them.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn recorded_totals(&self) -> Result<RecordedTotals, StoreError> {
        let totals = sqlx::query_as!(
            RecordedTotals,
            r#"select (select coalesce(sum(event_sequence), 0) from products)::bigint as "events!",
                      (select count(*) from inbox where queue = 'notifications') as "notifications!""#,
        );
        self.query(async |connection| totals.fetch_one(connection).await).await
    }

    /// Progress of commands, by message id, and of orders, by order id.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn send_progress(
        &self,
        message_ids: &[String],
        orderids: &[String],
    ) -> Result<SendProgress, StoreError> {
        let progress = sqlx::query_as!(
            SendProgress,
            r#"select (select pg_catalog.count(distinct message_id) from inbox
                       where queue in ('orders', 'stock') and message_id = any($1)) as "handled!",
                      (select count(*) from failed_attempts join failed_messages on failed_messages.id = failed_message_id
                       where queue in ('orders', 'stock') and message_id = any($1)) as "failed_attempts!",
                      pg_catalog.count(batchref) as "allocated!",
                      count(*) filter (where orderid is not null and batchref is null) as "backordered!"
               from allocations_view where orderid = any($2)"#,
            message_ids,
            orderids,
        );
        self.query(async |connection| progress.fetch_one(connection).await).await
    }
}

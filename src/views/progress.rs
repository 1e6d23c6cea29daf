//! What senders ask: what became of what was sent?

use serde::Serialize;

use super::Views;

/// What became of commands and of the orders they were about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SendProgress {
    /// How many of the message ids were handled.
    pub handled: i64,
    /// How many lines of the orders sit in a batch.
    pub allocated: i64,
    /// How many lines of the orders wait.
    pub backordered: i64,
}

impl Views {
    /// How many events were ever recorded.
    ///
    /// # Errors
    /// The database is away.
    pub async fn events_recorded(&self) -> Result<i64, sqlx::Error> {
        sqlx::query_scalar!(r#"select coalesce(sum(event_sequence), 0)::bigint as "events!" from products"#)
            .fetch_one(&self.pool)
            .await
    }

    /// What became of commands, by message id, and of orders, by their ids.
    ///
    /// # Errors
    /// The database is away.
    pub async fn outcome(
        &self,
        message_ids: &[String],
        orderids: &[String],
    ) -> Result<SendProgress, sqlx::Error> {
        sqlx::query_as!(
            SendProgress,
            r#"select (select count(distinct message_id) from inbox
                       where queue in ('orders', 'stock') and message_id = any($1)) as "handled!",
                      count(batchref) as "allocated!",
                      count(*) filter (where orderid is not null and batchref is null) as "backordered!"
               from allocations_view where orderid = any($2)"#,
            message_ids,
            orderids,
        )
        .fetch_one(&self.pool)
        .await
    }
}

//! What is read of lines, written in the same commit as the lines themselves.

use sqlx::PgConnection;

use crate::ports::store::{ViewRow, ViewState};

/// Writes each line's row, or removes it.
pub(super) async fn write(connection: &mut PgConnection, rows: &[ViewRow]) -> Result<(), sqlx::Error> {
    let mut shown = Shown::default();
    let (mut gone_orderids, mut gone_skus) = (Vec::new(), Vec::new());
    for row in rows {
        match &row.state {
            ViewState::Allocated(quantity, batch) => shown.push(row, quantity.get(), Some(batch.as_str())),
            ViewState::Backordered(quantity) => shown.push(row, quantity.get(), None),
            ViewState::Gone => {
                gone_orderids.push(row.orderid.as_str());
                gone_skus.push(row.sku.as_str());
            }
        }
    }
    upsert(connection, &shown).await?;
    remove(connection, &gone_orderids, &gone_skus).await
}

#[derive(Default)]
struct Shown<'a> {
    orderids: Vec<&'a str>,
    skus: Vec<&'a str>,
    quantities: Vec<i32>,
    batches: Vec<Option<&'a str>>,
}

impl<'a> Shown<'a> {
    fn push(&mut self, row: &'a ViewRow, quantity: u32, batch: Option<&'a str>) {
        self.orderids.push(row.orderid.as_str());
        self.skus.push(row.sku.as_str());
        self.quantities.push(i32::try_from(quantity).unwrap_or(i32::MAX));
        self.batches.push(batch);
    }
}

async fn upsert(connection: &mut PgConnection, shown: &Shown<'_>) -> Result<(), sqlx::Error> {
    if shown.orderids.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "insert into allocations_view (orderid, sku, qty, batchref)
         select * from unnest($1::text[], $2::text[], $3::integer[], $4::text[])
         on conflict (orderid, sku) do update set qty = excluded.qty, batchref = excluded.batchref",
        &shown.orderids as &[&str],
        &shown.skus as &[&str],
        &shown.quantities,
        &shown.batches as &[Option<&str>],
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn remove(connection: &mut PgConnection, orderids: &[&str], skus: &[&str]) -> Result<(), sqlx::Error> {
    if orderids.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "delete from allocations_view as v using unnest($1::text[], $2::text[]) as gone (orderid, sku)
         where v.orderid = gone.orderid and v.sku = gone.sku",
        orderids as &[&str],
        skus as &[&str],
    )
    .execute(connection)
    .await?;
    Ok(())
}

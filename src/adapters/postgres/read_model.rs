//! Writes the read model, in the same commit as the lines.

use sqlx::PgConnection;

use crate::ports::store::{ReadModelRow, ReadModelState};

/// Upserts or deletes the row of each line.
pub(super) async fn write(connection: &mut PgConnection, rows: &[ReadModelRow]) -> Result<(), sqlx::Error> {
    let mut upserts = UpsertColumns::default();
    let (mut removed_orderids, mut removed_skus) = (Vec::new(), Vec::new());
    for row in rows {
        match &row.state {
            ReadModelState::Allocated(quantity, batch) => {
                upserts.push(row, quantity.get(), Some(batch.as_str()));
            }
            ReadModelState::Backordered(quantity) => upserts.push(row, quantity.get(), None),
            ReadModelState::Removed => {
                removed_orderids.push(row.orderid.as_str());
                removed_skus.push(row.sku.as_str());
            }
        }
    }
    upsert(connection, &upserts).await?;
    remove(connection, &removed_orderids, &removed_skus).await
}

#[derive(Default)]
struct UpsertColumns<'a> {
    orderids: Vec<&'a str>,
    skus: Vec<&'a str>,
    quantities: Vec<i32>,
    batches: Vec<Option<&'a str>>,
}

impl<'a> UpsertColumns<'a> {
    fn push(&mut self, row: &'a ReadModelRow, quantity: u32, batch: Option<&'a str>) {
        self.orderids.push(row.orderid.as_str());
        self.skus.push(row.sku.as_str());
        self.quantities.push(i32::try_from(quantity).unwrap_or(i32::MAX));
        self.batches.push(batch);
    }
}

async fn upsert(connection: &mut PgConnection, rows: &UpsertColumns<'_>) -> Result<(), sqlx::Error> {
    if rows.orderids.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "insert into allocations_view (orderid, sku, qty, batchref)
         select * from unnest($1::text[], $2::text[], $3::integer[], $4::text[])
         on conflict (orderid, sku) do update set qty = excluded.qty, batchref = excluded.batchref",
        &rows.orderids as &[&str],
        &rows.skus as &[&str],
        &rows.quantities,
        &rows.batches as &[Option<&str>],
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

//! Values of the domain from columns, and back.

use std::error::Error;

use crate::domain::{BatchRef, Line, OrderId, Quantity};

/// A line and its order id, from a row.
pub(super) fn line_from_row(
    orderid: &str,
    quantity: i32,
    position: i64,
    batch: Option<&str>,
) -> Result<(OrderId, Line), sqlx::Error> {
    let line = Line {
        quantity: decode(Quantity::new(quantity))?,
        position,
        batch: decode(batch.map(BatchRef::new).transpose())?,
    };
    Ok((decode(OrderId::new(orderid))?, line))
}

/// A quantity as a Postgres `integer`, whose maximum is that of the domain's quantities.
pub(super) fn integer(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// A stored value as a value of the domain.
pub(super) fn decode<T, E: Error + Send + Sync + 'static>(value: Result<T, E>) -> Result<T, sqlx::Error> {
    value.map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

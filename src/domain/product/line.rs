//! A line of an order.

use crate::domain::values::{BatchRef, Quantity};

/// One line of an order, as stored with its product.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The ordered quantity.
    pub quantity: Quantity,
    /// Its position in the order in which the lines of the SKU were first requested.
    pub position: i64,
    /// The batch it is allocated to; `None` for a backorder.
    pub batch: Option<BatchRef>,
}

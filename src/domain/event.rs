//! Events: changes of order lines that were made.

use serde::Serialize;

use super::values::{BatchRef, OrderId, Quantity, Sku};

/// A change of a line. The order of the fields is their order in the published JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
#[expect(missing_docs, reason = "the fields are those of the contract")]
pub enum Event {
    /// The line was allocated to a batch.
    Allocated { orderid: OrderId, sku: Sku, qty: Quantity, batchref: BatchRef },
    /// The line was removed from its batch.
    Deallocated { orderid: OrderId, sku: Sku, qty: Quantity, batchref: BatchRef },
    /// The line fits no batch and is a backorder.
    OutOfStock { orderid: OrderId, sku: Sku, qty: Quantity },
    /// A backorder was deallocated. Not published.
    BackorderCancelled { orderid: OrderId, sku: Sku },
}

impl Event {
    /// The type under which it is published; `None` if it is not published.
    #[must_use]
    pub fn public_name(&self) -> Option<&'static str> {
        match self {
            Self::Allocated { .. } => Some("allocated"),
            Self::Deallocated { .. } => Some("deallocated"),
            Self::OutOfStock { .. } => Some("out_of_stock"),
            Self::BackorderCancelled { .. } => None,
        }
    }

    /// The SKU of the line.
    #[must_use]
    pub fn sku(&self) -> &Sku {
        match self {
            Self::Allocated { sku, .. }
            | Self::Deallocated { sku, .. }
            | Self::OutOfStock { sku, .. }
            | Self::BackorderCancelled { sku, .. } => sku,
        }
    }
}

/// An event with its sequence number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedEvent {
    /// 1, 2, 3 … per SKU, without gaps; `None` if it is not published.
    pub sequence: Option<i64>,
    /// The event.
    pub event: Event,
}

//! What happened to lines, told in the past tense.

use serde::Serialize;

use super::{BatchRef, OrderId, Quantity, Sku};

/// Something that happened to a line. The fields stand in the order in which others read them on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
#[expect(missing_docs, reason = "the fields are the contract's own words, explained at each variant")]
pub enum Event {
    /// The line now sits in a batch.
    Allocated { orderid: OrderId, sku: Sku, qty: Quantity, batchref: BatchRef },
    /// The line left the batch it sat in.
    Deallocated { orderid: OrderId, sku: Sku, qty: Quantity, batchref: BatchRef },
    /// The line fits nowhere and waits as a backorder.
    OutOfStock { orderid: OrderId, sku: Sku, qty: Quantity },
    /// A waiting line was taken back by its customer: ours alone to know, it is not published.
    BackorderCancelled { orderid: OrderId, sku: Sku },
}

impl Event {
    /// The name under which it is published; none for an event that stays inside.
    #[must_use]
    pub fn public_name(&self) -> Option<&'static str> {
        match self {
            Self::Allocated { .. } => Some("allocated"),
            Self::Deallocated { .. } => Some("deallocated"),
            Self::OutOfStock { .. } => Some("out_of_stock"),
            Self::BackorderCancelled { .. } => None,
        }
    }

    /// The product it happened to.
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

/// An event with its place in the history of its product.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedEvent {
    /// 1, 2, 3 … per SKU, without a gap; none for an event that stays inside.
    pub sequence: Option<i64>,
    /// What happened.
    pub event: Event,
}

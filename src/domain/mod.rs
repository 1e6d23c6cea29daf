//! The business rules of allocation: pure, synchronous, without clock, randomness or I/O.
//!
//! [`Product`] is the one aggregate: a SKU with its batches and the lines asked for. [`Command`]s say what is
//! wanted, [`Event`]s what happened, a [`Rejection`] why a rule said no. A rejected command leaves the aggregate
//! exactly as it was; the message bus relies on that to let the other commands of a unit of work go on.

mod batch;
mod command;
mod event;
mod product;
mod values;

pub use batch::Batch;
pub use command::{
    Allocate, ChangeBatchQuantity, Command, CreateBatch, Deallocate, NotifyOutOfStock, UnknownCommand,
};
pub use event::{Event, RecordedEvent};
pub use product::{Line, Product, ProductChanges};
pub use values::{BatchRef, InvalidValue, OrderId, Quantity, Sku, StockQuantity};

/// A rule of the domain that said no to a command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// No batch of this SKU was ever created.
    #[error("Invalid sku {0}")]
    InvalidSku(Sku),
    /// No batch has this reference.
    #[error("Invalid batchref {0}")]
    InvalidBatchref(BatchRef),
    /// The line is known, but was asked for with another quantity.
    #[error("order {orderid} already has a line of {known} {sku}; it cannot become {asked}")]
    QuantityMismatch {
        /// The order of the line.
        orderid: OrderId,
        /// The product of the line.
        sku: Sku,
        /// What the line was first asked for with.
        known: Quantity,
        /// What it is asked for with now.
        asked: Quantity,
    },
    /// The reference belongs to a batch with other content.
    #[error("batch {0} already exists with another sku, quantity or eta")]
    BatchMismatch(BatchRef),
}

impl Rejection {
    /// The rule that said no, without the values it said no to.
    #[must_use]
    pub fn rule(&self) -> &'static str {
        match self {
            Self::InvalidSku(_) => "Invalid sku …",
            Self::InvalidBatchref(_) => "Invalid batchref …",
            Self::QuantityMismatch { .. } => "the line is known with another quantity",
            Self::BatchMismatch(_) => "the batch is known with another sku, quantity or eta",
        }
    }
}

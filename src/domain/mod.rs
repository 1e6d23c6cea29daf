//! The business rules of allocation: pure and synchronous, without clock, randomness or I/O.
//!
//! [`Product`] is the only aggregate: a SKU with its batches and order lines. A [`Command`] asks for a change, an
//! [`Event`] states a change that was made, a [`Rejection`] names the rule that rejects a command. A rejected command
//! leaves the aggregate unchanged; the message bus relies on this to commit the other commands of a unit of work.

mod attempt;
mod batch;
mod command;
mod event;
mod failed_message;
mod message;
mod names;
mod ordering_key;
mod product;
mod publication;
mod rejection;
mod size_class;
mod skip_reason;
mod values;

pub use attempt::{NewAttempt, Reason, RetryDecision};
pub use batch::Batch;
pub use command::{Allocate, ChangeBatchQuantity, Command, CreateBatch, Deallocate, ReadError};
pub use event::{Event, RecordedEvent};
pub use failed_message::{Edit, FailedMessage, OperatorAction, Status, StatusKind, Transition};
pub use message::{BodyHash, FailedMessageKey, MessageKey};
pub(crate) use names::named_values;
pub use ordering_key::OrderingKey;
pub use product::{BatchRank, BatchSearch, Batches, Line, OfferProgress, Product, ProductChanges};
pub use publication::{
    ConfirmedPrefix, OutboxRow, PublishOutcome, PublishReport, PublishWindow, ThrottleChange,
};
pub use rejection::Rejection;
pub use size_class::SizeClass;
pub use skip_reason::SkipReason;
pub use values::{BatchRef, InvalidValue, OrderId, Quantity, Sku, StockQuantity};

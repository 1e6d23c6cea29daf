//! The history of a message or of an order, from everything that is recorded about it.

mod records;
mod steps;
mod story;

pub use records::LineState;
pub use steps::HistoryStep;
pub use story::{History, KeptFor};

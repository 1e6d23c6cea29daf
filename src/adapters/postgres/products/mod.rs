//! Products with their batches and lines.

mod batches;
mod convert;
mod load;
mod lock;
mod write;

pub(super) use batches::search;
pub(super) use load::{load, load_newest_lines, load_waiting_lines};
pub(super) use write::{VersionCheck, write};

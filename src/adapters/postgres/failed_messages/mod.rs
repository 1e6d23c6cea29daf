//! The table `failed_messages`.

mod due;
mod find;
mod operator;
mod order;
mod record;
mod retriable;
mod totals;
mod transition;

pub(super) use due::{defer, due, published, reject};
pub(super) use find::{check_retries, count_attempts};
pub use operator::PgFailedMessages;
pub(super) use order::{check_order, overtake, release};
pub(super) use record::{record, resolve};
pub(super) use retriable::retriable;
pub(super) use totals::add_up;

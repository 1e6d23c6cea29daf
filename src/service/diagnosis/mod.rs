//! Why a queue does not move, and why an order is not allocated.

mod consumers;
mod order;
mod queue;
mod reason;
mod servers;
#[cfg(test)]
mod tests;
mod work;

pub use order::{LineDiagnosis, OrderDiagnosis, OrderState, diagnose_order};
pub use queue::{QueueDiagnosis, diagnose};
pub use reason::{Finding, NOTHING, NotKnown, ReasonCode};

//! The order in which committed events are published, and what each answer of the broker means for it.

mod outbox_row;
mod prefix;
mod throttle;
mod window;

pub use outbox_row::{OutboxRow, PublishOutcome};
pub use prefix::ConfirmedPrefix;
pub use throttle::ThrottleChange;
pub use window::{PublishReport, PublishWindow};

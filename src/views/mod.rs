//! The read side: each query returns one struct. Nothing here writes.

mod availability;
mod diagnosis;
mod failed_message_details;
mod failed_messages;
mod failure_counts;
mod handle;
mod history;
mod inspection;
mod order_state;
mod orders;
mod outbox;
mod processes;
mod progress;

pub use availability::{Availability, AvailableBatch};
pub use failed_message_details::{ActionRow, AttemptRow, FailedMessageDetail};
pub use failed_messages::{FailedMessageSummary, ListPosition};
pub use failure_counts::{FailureCounts, FailureGroup};
pub use handle::Views;
pub use history::{History, HistoryStep, KeptFor, LineState};
pub use orders::{Allocation, Order, OrderLine};
pub use outbox::{OutboxDepth, RelayLeader, UnpublishedEvent};
pub use progress::{RecordedTotals, SendProgress};

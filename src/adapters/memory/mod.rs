//! Everything in memory: for tests that take microseconds, and for the demo. It obeys the same contract tests as the
//! real adapters, so it cannot lie about them.

mod failed_messages;
mod messaging;
mod notifier;
mod outbox;
mod state;
mod transaction;

pub use messaging::{MemoryQueues, RecordingPublisher};
pub use notifier::RecordingNotifier;
pub use state::{MemoryState, MemoryStore, SeedProduct};

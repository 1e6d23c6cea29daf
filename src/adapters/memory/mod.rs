//! Everything in memory: for tests that take microseconds, and for the demo. It obeys the same contract tests as the
//! real adapters, so it cannot lie about them.

mod failed_messages;
mod notifier;
mod outbox;
mod publisher;
mod queues;
mod state;
mod transaction;

pub use notifier::RecordingNotifier;
pub use publisher::RecordingPublisher;
pub use queues::MemoryQueues;
pub use state::{MemoryState, MemoryStore, SeedProduct};

//! Everything in memory: for tests that take microseconds, and for the demo. It obeys the same contract tests as the
//! real adapters, so it cannot lie about them.

mod notifier;
mod outbox;
mod publisher;
mod queues;
mod store;

pub use notifier::RecordingNotifier;
pub use publisher::RecordingPublisher;
pub use queues::MemoryQueues;
pub use store::{MemoryState, MemoryStore, SeedProduct};

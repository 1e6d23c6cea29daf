//! The ports in memory, for fast tests, `demo` and `csv`. They pass the same contract tests as the real adapters.

mod dry_run;
mod failed_messages;
mod notifier;
mod outbox;
mod publisher;
mod purge;
mod queues;
mod state;
mod store;
mod transaction;

pub use failed_messages::RecordedFailure;
pub use notifier::RecordingNotifier;
pub use publisher::RecordingPublisher;
pub use queues::MemoryQueues;
pub use state::{MemoryState, MemoryStore, SeedProduct};

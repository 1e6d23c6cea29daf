//! Everything in memory: for tests that take microseconds, and for the demo. It obeys the same contract tests as the
//! real adapters, so it cannot lie about them.

mod messaging;
mod notices;
mod store;

pub use messaging::{MemoryExchange, MemoryQueues};
pub use notices::MemoryNotices;
pub use store::{Held, Kept, MemoryStore};

//! Fault injection for the chaos tests: decorators around the ports, and one hook in a handler's path.
//!
//! With the feature `chaos`, `CRASH_AT=worker.after_commit:3` ends the process with SIGKILL when it passes that point for
//! the third time, and `CRASH_AT=worker.mid_handler@ID` when it handles the message with that id; several are separated by
//! commas. `SEEDED_BUG` names a bug that the tests must detect. Without the feature the ports are not decorated, and the
//! hook is empty.

#[cfg(feature = "chaos")]
mod decorate;
#[cfg(not(feature = "chaos"))]
mod disabled;
#[cfg(feature = "chaos")]
mod failed_messages;
#[cfg(feature = "chaos")]
mod outbox;
#[cfg(feature = "chaos")]
mod plan;
#[cfg(feature = "chaos")]
mod points;
#[cfg(feature = "chaos")]
mod publisher;
#[cfg(feature = "chaos")]
mod queues;
#[cfg(feature = "chaos")]
mod store;

#[cfg(feature = "chaos")]
pub(crate) use decorate::{failed_messages, mid_handler, outbox, publisher, queues, store};
#[cfg(not(feature = "chaos"))]
pub(crate) use disabled::{failed_messages, mid_handler, outbox, publisher, queues, store};
#[cfg(feature = "chaos")]
pub use points::{CrashPoint, SeededBug};

//! The hexagon's edge: what the service needs from the world, said in the domain's words.
//!
//! [`store`] keeps the truth, with a [`ledger`] of what failed; [`queue`] brings commands, [`outbox`] takes events away,
//! [`notifier`] tells people, [`operations`] is for operators. What commands need has two adapters, a real one and one in
//! memory, and both stores obey the same contract tests.

pub mod admin;
pub mod error;
pub mod failed_messages;
pub mod notifier;
pub mod outbox;
pub mod queue;
pub mod store;
pub mod text;

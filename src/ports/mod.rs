//! The interfaces of the service to the outside, in terms of the domain.
//!
//! [`store`] and [`failed_messages`] keep the state, [`queue`] delivers messages, [`outbox`] publishes events, [`notifier`]
//! sends mail, [`admin`] and [`dry_run`] are for operators, [`installation`] is checked first, [`observer`] is
//! informed of everything. What commands need has two adapters, a real one and one in memory, and both
//! stores pass the same contract tests.

pub mod admin;
pub mod answered;
pub mod checks;
pub mod diagnosis;
pub mod dry_run;
pub mod error;
pub mod failed_messages;
pub mod installation;
pub mod notifier;
pub mod observer;
pub mod outbox;
pub mod processes;
pub mod queue;
pub mod routing;
pub mod store;
pub mod text;
pub mod trace;

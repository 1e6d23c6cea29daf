//! Message bus, consumer and relay with fake ports and a paused clock: faults of servers at any moment, without servers.

mod attempts;
mod consumer;
pub(crate) mod fakes;
mod key_order;
mod locks;
mod missing_answers;
mod notifications;
mod operator_actions;
mod outages;
mod publication;
mod reports;
mod requeue;
mod retries;
mod shared_units_of_work;
mod starts;
mod unknown_commits;

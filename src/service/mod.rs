//! What the service does, in the order in which it does it: decode, handle, react, commit, publish.

pub mod dead_letters;
pub mod decode;
pub mod delays;
mod handlers;
pub mod incoming;
pub mod message_bus;
mod notifications;
pub mod outage;
pub mod relay;
mod suspects;
pub mod unit_of_work;
pub mod verdict;

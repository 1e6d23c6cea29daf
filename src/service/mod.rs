//! What the service does, in the order in which it does it: decode, handle, react, commit, publish.

mod admission;
pub mod dead_letters;
pub mod decode;
pub mod delays;
mod dispatch;
mod handlers;
pub mod incoming;
pub mod message_bus;
mod notifications;
pub mod outage;
mod recording;
pub mod relay;
mod suspects;
mod throttle;
pub mod unit_of_work;
pub mod verdict;

//! Publishes committed events, and retries of failed commands: at least once, and in order per SKU.
//!
//! One relay is the leader, the others are standbys. The leader reads the oldest rows of the outbox, publishes them
//! together, and removes the confirmed ones. The rules of order and back-off are those of
//! [`PublishWindow`](crate::domain::PublishWindow).

mod cycle;
mod events;
mod gauges;
mod leader;
mod retries;

pub use gauges::Gauges;
pub use leader::Relay;

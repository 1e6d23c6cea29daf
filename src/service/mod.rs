//! What the service does, in the order in which it does it: decode, handle, react, commit, publish.

pub mod availability;
pub mod backoff;
mod crash_loop;
pub mod decode;
mod dispatch;
pub mod failed_messages;
pub mod failure;
mod handlers;
pub mod message_bus;
mod message_check;
mod notifications;
pub mod received;
mod recording;
pub mod relay;
pub mod unit_of_work;

//! The use cases: decode, handle, react, commit, publish.

pub mod archive;
pub mod availability;
pub mod backoff;
pub mod batch_handler;
mod bisect;
pub mod body;
mod crash_loop;
pub mod decode;
pub mod decode_error;
mod dispatch;
pub mod envelope;
pub mod failed_messages;
pub mod failure;
mod handlers;
pub mod json_text;
pub mod message_bus;
mod message_check;
mod notification_text;
pub mod notifications;
pub mod outcome;
pub mod policy;
mod process;
pub mod received;
mod recording;
pub mod relay;
mod traceparent;
pub mod unit_of_work;

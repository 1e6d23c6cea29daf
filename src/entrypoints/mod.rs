//! Where work comes in: queues and HTTP.

pub mod api;
pub mod consumer;
mod partition;
pub mod prefetch;
pub mod watchdog;

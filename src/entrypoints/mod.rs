//! Where work comes in: queues and HTTP.

pub mod api;
pub mod consumer;
mod failure_log;
mod partition;
pub mod prefetch;
pub mod storage;
pub mod watchdog;

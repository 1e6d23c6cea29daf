//! Where work comes in: queues and HTTP.

pub mod api;
mod connections;
pub mod consumer;
mod failure_log;
mod http_server;
pub mod metrics;
mod partition;
pub mod prefetch;
pub mod storage;
pub mod watchdog;

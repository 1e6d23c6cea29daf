//! Where work comes in: queues and HTTP.

pub mod api;
mod connections;
pub mod consumer;
pub mod health;
mod http_server;
mod json_response;
pub mod metrics;
mod outcome_log;
mod partition;
pub mod prefetch;
pub mod storage;
pub mod watchdog;

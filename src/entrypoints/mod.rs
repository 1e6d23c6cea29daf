//! Where the world comes in: queues, HTTP, people at a terminal.

pub mod api;
pub mod consumer;
pub mod watchdog;

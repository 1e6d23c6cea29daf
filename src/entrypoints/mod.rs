//! Where the world comes in: queues, HTTP, people at a terminal.

pub mod api;
pub mod cli;
pub mod vitals;
pub mod worker;

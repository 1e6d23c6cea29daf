//! Where the world comes in: queues, the outbox's clock, people at a terminal.

pub mod cli;
pub mod worker;

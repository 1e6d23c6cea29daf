//! The ports' other sides: real servers, and memory.

pub mod memory;
pub mod postgres;
pub mod rabbitmq;

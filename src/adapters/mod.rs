//! The ports' other sides: real servers, files, and memory.

pub mod csv;
pub mod mail;
pub mod memory;
pub mod otel;
pub mod postgres;
pub mod prometheus;
pub mod rabbitmq;

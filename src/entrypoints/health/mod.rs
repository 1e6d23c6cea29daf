//! Health checks over HTTP, in every process.

mod readiness;
mod routes;
mod server;

pub use readiness::{LastReport, Readiness};
pub use routes::{Health, StallTimeouts};
pub use server::HealthServer;

//! The HTTP server of the metrics.

mod listener;
mod server;

pub use server::MetricsServer;

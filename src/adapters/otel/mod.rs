//! Traces: spans are built from the reports of this process and exported to a collector over OTLP.

mod collector;
mod exporter;
mod names;
mod queue;
mod requests;
mod resource;
mod sampler;
mod sending;
mod span;
#[cfg(test)]
mod tests;
mod tracer;
mod work;

pub use collector::{Collector, InvalidEndpoint};
pub use exporter::SpanExporter;
pub use resource::Instance;
pub use tracer::{Tracer, TracerOptions};

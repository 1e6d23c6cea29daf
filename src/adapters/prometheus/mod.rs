//! Metrics in the format of OpenMetrics.

mod catalog;
mod leader;
mod messages;
mod observer;
mod outages;
mod process;
mod publication;
mod resources;

pub use catalog::Description;
pub use observer::PrometheusObserver;

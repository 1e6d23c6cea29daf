//! The server of the metrics, and what the leading relay measures for them.

use std::sync::Arc;

use crate::{
    adapters::{postgres::PgBacklogReader, rabbitmq::RabbitQueueReader},
    entrypoints::metrics::MetricsServer,
    service::relay::Gauges,
};

use super::app::App;

impl App {
    /// The server of the metrics, unless `metrics.listen` is empty.
    pub(super) fn metrics_server(&self) -> Option<MetricsServer> {
        Some(MetricsServer {
            listen: self.settings.metrics.listen?,
            exposition: self.metrics.clone()?,
            watchdog: self.watchdog.clone(),
        })
    }

    /// What a relay measures while it leads, if there are metrics.
    pub(super) fn gauges(&self) -> Option<Gauges> {
        self.metrics.as_ref().map(|_| Gauges {
            backlog: Arc::new(PgBacklogReader::new(self.pg.clone())),
            queues: Arc::new(RabbitQueueReader::new(self.broker.clone())),
            interval: self.settings.metrics.interval,
        })
    }
}

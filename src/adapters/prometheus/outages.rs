//! Metrics of servers that are unavailable. The time of an outage that lasts is counted at each scrape.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use prometheus_client::metrics::gauge::Gauge;

use crate::ports::observer::{AvailabilityReport, Server};

use super::catalog::{Catalog, Seconds, Series};

pub(super) struct OutageMetrics {
    unavailable: Series<Gauge, 1>,
    unavailable_seconds: Series<Seconds, 1>,
    /// The servers that are unavailable, with the time up to which that is counted.
    outages: Mutex<Vec<(Server, Instant)>>,
}

impl OutageMetrics {
    pub(super) fn new(catalog: &mut Catalog) -> Self {
        let metrics = Self {
            unavailable: catalog.gauge(
                "server_unavailable",
                ["server"],
                "1 while this process cannot use the server, 0 otherwise",
            ),
            unavailable_seconds: catalog.seconds(
                "server_unavailable_seconds",
                ["server"],
                "How long this process could not use the server, in total",
            ),
            outages: Mutex::default(),
        };
        for server in Server::ALL {
            metrics.unavailable.of([server.as_str()]).set(0);
            metrics.unavailable_seconds.of([server.as_str()]).inc_by(0.0);
        }
        metrics
    }

    pub(super) fn availability(&self, report: AvailabilityReport) {
        let AvailabilityReport { server, is_available } = report;
        let mut outages = self.outages();
        self.count(&mut outages);
        outages.retain(|(other, _)| *other != server);
        if !is_available {
            outages.push((server, Instant::now()));
        }
        self.unavailable.of([server.as_str()]).set(i64::from(!is_available));
    }

    /// Counts the time of the outages that last.
    pub(super) fn update(&self) {
        self.count(&mut self.outages());
    }

    fn count(&self, outages: &mut [(Server, Instant)]) {
        let now = Instant::now();
        for (server, counted_to) in outages {
            self.unavailable_seconds.of([server.as_str()]).inc_by((now - *counted_to).as_secs_f64());
            *counted_to = now;
        }
    }

    fn outages(&self) -> MutexGuard<'_, Vec<(Server, Instant)>> {
        self.outages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Metrics of what is published.

use std::time::Duration;

use prometheus_client::metrics::{counter::Counter, histogram::Histogram};

use crate::ports::observer::{
    EventsPublished, NotificationOutcome, PublicationOutcome, PurgedRows, RetriesPublished,
};

use super::catalog::{Catalog, Series};

/// Some milliseconds while all is well, minutes after an outage.
fn delay_seconds() -> Histogram {
    Histogram::new([
        0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0,
    ])
}

/// A window takes one confirm of the broker: some milliseconds. It lasts as long as a resource alarm.
fn window_seconds() -> Histogram {
    Histogram::new([0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0])
}

pub(super) struct PublicationMetrics {
    events: Series<Counter, 1>,
    retries: Series<Counter, 1>,
    event_delay: Series<Histogram, 0>,
    window: Series<Histogram, 0>,
    notifications: Series<Counter, 1>,
    purged: Series<Counter, 1>,
}

impl PublicationMetrics {
    pub(super) fn new(catalog: &mut Catalog) -> Self {
        let metrics = Self {
            events: catalog.counter("events", ["outcome"], "Publications of events"),
            retries: catalog.counter("retries", ["outcome"], "Publications of retries"),
            event_delay: catalog.histogram(
                "event_delay_seconds",
                [],
                "From the commit of an event to the broker's confirm",
                delay_seconds,
            ),
            window: catalog.histogram(
                "publish_seconds",
                [],
                "From the publication of a window of events to its last confirm",
                window_seconds,
            ),
            notifications: catalog.counter(
                "notifications",
                ["outcome"],
                "Notifications, as mails or otherwise",
            ),
            purged: catalog.counter(
                "purged_rows",
                ["table"],
                "Expired rows that this process removed as the leader",
            ),
        };
        metrics.preset();
        metrics
    }

    fn preset(&self) {
        for outcome in PublicationOutcome::ALL {
            self.events.of([event_outcome(*outcome)]).inc_by(0);
            self.retries.of([outcome.as_str()]).inc_by(0);
        }
        for outcome in NotificationOutcome::ALL {
            self.notifications.of([outcome.as_str()]).inc_by(0);
        }
        self.purged(PurgedRows::default());
    }

    pub(super) fn events(&self, report: &EventsPublished<'_>) {
        let delays = self.event_delay.of([]);
        for alike in report.events.chunk_by(|one, other| one.outcome == other.outcome) {
            let Some(first) = alike.first() else { continue };
            self.events.of([event_outcome(first.outcome)]).inc_by(alike.len() as u64);
            if matches!(first.outcome, PublicationOutcome::Confirmed | PublicationOutcome::Unroutable) {
                for event in alike {
                    // The clocks of the database and of this machine may differ.
                    let delay = report.period.end().duration_since(event.committed_at);
                    delays.observe(delay.unwrap_or(Duration::ZERO).as_secs_f64());
                }
            }
        }
        self.window.of([]).observe(report.period.duration.as_secs_f64());
    }

    pub(super) fn retries(&self, report: &RetriesPublished<'_>) {
        for retry in report.retries {
            self.retries.of([retry.outcome.as_str()]).inc();
        }
    }

    pub(super) fn notification(&self, outcome: NotificationOutcome) {
        self.notifications.of([outcome.as_str()]).inc();
    }

    pub(super) fn purged(&self, rows: PurgedRows) {
        let PurgedRows { inbox, failed_messages, message_starts, published_events } = rows;
        for (table, rows) in [
            ("inbox", inbox),
            ("failed_messages", failed_messages),
            ("message_starts", message_starts),
            ("published_events", published_events),
        ] {
            self.purged.of([table]).inc_by(rows);
        }
    }
}

/// An event that the broker rejects is parked.
fn event_outcome(outcome: PublicationOutcome) -> &'static str {
    if outcome == PublicationOutcome::Rejected { "parked" } else { outcome.as_str() }
}

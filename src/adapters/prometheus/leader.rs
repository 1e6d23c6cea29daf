//! Metrics of the leading relay. Their series exist only while this process leads.

use prometheus_client::metrics::gauge::Gauge;

use crate::ports::{
    observer::{Backlog, FailedMessageCount, GaugedQueueKind, LeadershipChange, QueueState},
    queue::QueueName,
};

use super::catalog::{Catalog, SecondsGauge, Series};

pub(super) struct LeaderMetrics {
    relay_leader: Series<Gauge, 0>,
    outbox_pending: Series<Gauge, 0>,
    outbox_oldest: Series<SecondsGauge, 0>,
    outbox_parked: Series<Gauge, 0>,
    failed_messages: Series<Gauge, 2>,
    groups: Series<Gauge, 0>,
    overdue: Series<SecondsGauge, 0>,
    processes: Series<Gauge, 1>,
    ready: Series<Gauge, 2>,
    consumers: Series<Gauge, 2>,
}

impl LeaderMetrics {
    pub(super) fn new(catalog: &mut Catalog) -> Self {
        Self {
            relay_leader: catalog.gauge(
                "relay_leader",
                [],
                "1 while the relay of this process is the leader, 0 while it is on standby",
            ),
            outbox_pending: catalog.gauge(
                "outbox_pending",
                [],
                "Leader only: unpublished events, counted to 100,000",
            ),
            outbox_oldest: catalog.seconds_gauge(
                "outbox_oldest_seconds",
                [],
                "Leader only: age of the oldest event that can be published",
            ),
            outbox_parked: catalog.gauge("outbox_parked", [], "Leader only: parked events"),
            failed_messages: catalog.gauge(
                "failed_messages",
                ["queue", "status"],
                "Leader only: failed messages that are not resolved, each number counted to 10,000",
            ),
            groups: catalog.gauge(
                "failed_message_groups",
                [],
                "Leader only: groups of dead letters, counted to 1,000",
            ),
            overdue: catalog.seconds_gauge(
                "retries_overdue_seconds",
                [],
                "Leader only: how long a retry waits for its publication, the longest time",
            ),
            processes: catalog.gauge(
                "processes",
                ["role"],
                "Leader only: processes with this role that reported themselves within 15 seconds",
            ),
            ready: catalog.gauge(
                "queue_ready",
                ["queue", "queue_kind"],
                "Leader only: messages that are ready for delivery on the broker",
            ),
            consumers: catalog.gauge(
                "queue_consumers",
                ["queue", "queue_kind"],
                "Leader only: consumers of the queue on the broker",
            ),
        }
    }

    pub(super) fn leadership(&self, change: LeadershipChange) {
        self.relay_leader.of([]).set(i64::from(change == LeadershipChange::Began));
        self.backlog(None);
        self.queues(&[]);
    }

    pub(super) fn backlog(&self, backlog: Option<&Backlog>) {
        let Some(backlog) = backlog else { return self.clear_backlog() };
        self.outbox_pending.of([]).set(number(backlog.outbox_pending));
        self.outbox_oldest.of([]).set(backlog.outbox_oldest.as_secs_f64());
        self.outbox_parked.of([]).set(number(backlog.outbox_parked));
        for FailedMessageCount { queue, status, messages } in &backlog.failed_messages {
            self.failed_messages.of([queue.as_str(), status.as_str()]).set(number(*messages));
        }
        self.groups.of([]).set(number(backlog.failed_message_groups));
        self.overdue.of([]).set(backlog.retries_overdue.as_secs_f64());
        for (role, processes) in &backlog.processes {
            self.processes.of([role]).set(number(*processes));
        }
    }

    fn clear_backlog(&self) {
        for gauges in [&self.outbox_pending, &self.outbox_parked, &self.groups] {
            gauges.clear();
        }
        self.outbox_oldest.clear();
        self.failed_messages.clear();
        self.overdue.clear();
        self.processes.clear();
    }

    pub(super) fn queues(&self, states: &[QueueState]) {
        for (queue, kind) in all_queues() {
            let labels = [queue.as_str(), kind.as_str()];
            let found = states.iter().find(|state| state.queue == queue && state.kind == kind);
            let Some(QueueState { ready, consumers, .. }) = found else {
                self.ready.remove(labels);
                self.consumers.remove(labels);
                continue;
            };
            self.ready.of(labels).set(i64::from(*ready));
            // Nothing consumes messages that cannot be decoded.
            if kind != GaugedQueueKind::Unreadable {
                self.consumers.of(labels).set(i64::from(*consumers));
            }
        }
    }
}

fn all_queues() -> impl Iterator<Item = (QueueName, GaugedQueueKind)> {
    QueueName::ALL.into_iter().flat_map(|queue| GaugedQueueKind::ALL.iter().map(move |kind| (queue, *kind)))
}

fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

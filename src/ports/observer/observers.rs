//! The interface of observers, and two of them.

use std::sync::Arc;

use crate::ports::{queue::QueueName, trace::TraceContext};

use super::{
    gauges::{Backlog, QueueState},
    message::{FailureReport, UnitOfWorkReport},
    process::{AvailabilityReport, LeadershipChange, RequestReport, SchemaReport, SubscriptionReport},
    publication::{EventsPublished, NotificationOutcome, PurgedRows, RetriesPublished},
    spans::{SpanDecision, SpanOutcome},
};

/// Something that this process did or measured.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Report<'a> {
    /// So many messages were delivered that had been delivered before.
    Redelivered(QueueName, usize),
    /// A unit of work was committed or rolled back.
    UnitOfWork(&'a UnitOfWorkReport<'a>),
    /// A message got its outcome outside of the units of work that handle messages.
    Failure(&'a FailureReport<'a>),
    /// Redelivered messages were begun by a process that has not ended them: so many.
    InterruptedStarts(QueueName, usize),
    /// A subscription began or ended.
    Subscription(SubscriptionReport),
    /// A server became unavailable, or available again.
    Availability(AvailabilityReport),
    /// Events were published, one window of them.
    EventsPublished(&'a EventsPublished<'a>),
    /// Retries were published, one window of them.
    RetriesPublished(&'a RetriesPublished<'a>),
    /// The relay of this process became the leader, or is it no longer.
    Leadership(LeadershipChange),
    /// The leader removed expired rows.
    Purged(PurgedRows),
    /// A notification was sent, or was not. It is about one event or several.
    Notification(NotificationOutcome),
    /// A request was answered.
    Request(&'a RequestReport<'a>),
    /// The version of the schema was read.
    Schema(SchemaReport),
    /// The leader measured what waits in the database; `None` if it could not.
    BacklogGauged(Option<&'a Backlog>),
    /// The leader measured the queues; none if it could not.
    QueuesGauged(&'a [QueueState]),
    /// So many spans have this outcome.
    Spans(SpanOutcome, usize),
}

/// Receives reports.
pub trait Observer: Send + Sync {
    /// Takes note of a report. It never waits, never fails and takes no lock that another thread holds for long: the caller is
    /// on its way to acknowledge messages or to answer a request.
    fn observe(&self, report: &Report<'_>);

    /// Decides about a span that begins now; its report follows when it has ended. It continues the trace of `parent`, or is the
    /// root of another trace with a link to its parent.
    fn begin_span(&self, _parent: Option<TraceContext>, _is_root: bool) -> SpanDecision {
        SpanDecision::NotRecorded
    }

    /// Whether reports are of any use. If not, callers need not compose them.
    fn is_active(&self) -> bool {
        true
    }
}

/// Observes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl Observer for NoObserver {
    fn observe(&self, _: &Report<'_>) {}

    fn is_active(&self) -> bool {
        false
    }
}

/// Several observers as one.
#[derive(Clone, Default)]
pub struct Observers(Vec<Arc<dyn Observer>>);

impl Observers {
    /// Those that are active.
    #[must_use]
    pub fn new(observers: Vec<Arc<dyn Observer>>) -> Self {
        Self(observers.into_iter().filter(|observer| observer.is_active()).collect())
    }
}

impl Observer for Observers {
    fn observe(&self, report: &Report<'_>) {
        self.0.iter().for_each(|observer| observer.observe(report));
    }

    fn begin_span(&self, parent: Option<TraceContext>, is_root: bool) -> SpanDecision {
        let mut decisions = self.0.iter().map(|observer| observer.begin_span(parent, is_root));
        decisions.find(|decision| *decision != SpanDecision::NotRecorded).unwrap_or_default()
    }

    fn is_active(&self) -> bool {
        !self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Observer for Counter {
        fn observe(&self, _: &Report<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn each_observer_gets_each_report() {
        let counters = [Arc::new(Counter::default()), Arc::new(Counter::default())];
        let observers = Observers::new(vec![counters[0].clone(), Arc::new(NoObserver), counters[1].clone()]);
        assert!(observers.is_active());
        for _ in 0..3 {
            observers.observe(&Report::Leadership(LeadershipChange::Began));
        }
        assert_eq!(counters.map(|counter| counter.0.load(Ordering::Relaxed)), [3, 3]);
    }

    #[test]
    fn without_an_active_observer_nothing_is_observed() {
        assert!(!Observers::default().is_active());
        assert!(!Observers::new(vec![Arc::new(NoObserver)]).is_active());
    }
}

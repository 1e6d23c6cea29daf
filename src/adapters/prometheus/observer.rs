//! The observer that keeps the metrics of a process.

use prometheus_client::{encoding::text, registry::Registry};

use crate::ports::observer::{Exposition, Observer, QueueActivity, Report};

use super::{
    catalog::{Catalog, Description},
    leader::LeaderMetrics,
    messages::MessageMetrics,
    outages::OutageMetrics,
    process::ProcessMetrics,
    publication::PublicationMetrics,
    resources::ResourceMetrics,
};

/// The metrics of a process. What it holds is bounded: no value of a label comes from outside.
pub struct PrometheusObserver {
    registry: Registry,
    descriptions: Vec<Description>,
    process: ProcessMetrics,
    resources: ResourceMetrics,
    outages: OutageMetrics,
    messages: MessageMetrics,
    publication: PublicationMetrics,
    leader: LeaderMetrics,
}

impl Default for PrometheusObserver {
    fn default() -> Self {
        let mut catalog = Catalog::default();
        let process = ProcessMetrics::new(&mut catalog);
        let resources = ResourceMetrics::new(&mut catalog);
        let outages = OutageMetrics::new(&mut catalog);
        let messages = MessageMetrics::new(&mut catalog);
        let publication = PublicationMetrics::new(&mut catalog);
        let leader = LeaderMetrics::new(&mut catalog);
        let Catalog { registry, descriptions } = catalog;
        Self { registry, descriptions, process, resources, outages, messages, publication, leader }
    }
}

impl PrometheusObserver {
    /// All metric families.
    #[must_use]
    pub fn descriptions(&self) -> &[Description] {
        &self.descriptions
    }
}

impl Observer for PrometheusObserver {
    fn observe(&self, report: &Report<'_>) {
        match *report {
            Report::Redelivered(queue, messages) => self.messages.redelivered(queue, messages),
            Report::UnitOfWork(unit_of_work) => self.messages.unit_of_work(unit_of_work),
            Report::Failure(failure) => self.messages.failure(failure),
            Report::InterruptedStarts(queue, messages) => self.messages.interrupted_starts(queue, messages),
            Report::Subscription(subscription) => self.process.subscription(subscription),
            Report::Availability(availability) => self.outages.availability(availability),
            Report::EventsPublished(events) => self.publication.events(events),
            Report::RetriesPublished(retries) => self.publication.retries(retries),
            Report::Leadership(change) => self.leader.leadership(change),
            Report::Purged(rows) => self.publication.purged(rows),
            Report::Notification(notification) => self.publication.notification(notification),
            Report::Request(request) => self.process.request(request),
            Report::Schema(schema) => self.process.schema(schema),
            Report::BacklogGauged(backlog) => self.leader.backlog(backlog),
            Report::QueuesGauged(states) => self.leader.queues(states),
            Report::Spans(outcome, spans) => self.process.spans(outcome, spans),
        }
    }
}

impl Exposition for PrometheusObserver {
    fn content_type(&self) -> &'static str {
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    }

    fn expose(&self, activity: &[QueueActivity]) -> String {
        self.process.activity(activity);
        self.outages.update();
        self.resources.update();
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }
}

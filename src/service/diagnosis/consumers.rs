//! The processes that a queue needs, and what they do with it.

use crate::ports::{
    diagnosis::{Observed, QueueObservations},
    processes::{ProcessRow, QueueWork},
    queue::QueueName,
};

/// The processes that run, and have a role that the queue needs.
pub(super) fn consumers(observed: &QueueObservations) -> Observed<Vec<&ProcessRow>> {
    running(observed, role_of(observed.queue))
}

/// The processes that run and publish, if they lead.
pub(super) fn relays(observed: &QueueObservations) -> Observed<Vec<&ProcessRow>> {
    running(observed, "relay")
}

fn running<'a>(observed: &'a QueueObservations, role: &str) -> Observed<Vec<&'a ProcessRow>> {
    let processes = observed.processes.as_ref().map_err(Clone::clone)?.iter();
    let running = processes.filter(|process| process.status == "running");
    Ok(running.filter(|process| process.roles.iter().any(|has| has == role)).collect())
}

/// The role that consumes a queue.
pub(super) fn role_of(queue: QueueName) -> &'static str {
    match queue {
        QueueName::Orders | QueueName::Stock => "worker",
        QueueName::Notifications => "notifier",
    }
}

/// What all processes together do with the queue.
pub(super) fn queue_work(observed: &QueueObservations) -> Observed<QueueWork> {
    let queue = observed.queue.as_str();
    let mut all = QueueWork { queue: queue.to_owned(), unacknowledged: 0, finished_last_minute: 0 };
    let processes = consumers(observed)?;
    let works = processes.iter().flat_map(|process| &process.state.queues);
    for work in works.filter(|work| work.queue == queue) {
        all.unacknowledged += work.unacknowledged;
        all.finished_last_minute += work.finished_last_minute;
    }
    Ok(all)
}

//! Detects tasks that make no progress.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use crate::{
    ports::{processes::QueueWork, queue::QueueName},
    service::{activity::Activity, recent_count::RecentCount},
};

use super::prefetch::InFlight;

/// The deliveries of a subscription to a queue.
type Deliveries = (QueueName, Weak<InFlight>);

/// All partitions of a process, and its relay. Clones are one watchdog.
#[derive(Clone, Default)]
pub struct Watchdog {
    partitions: Arc<Mutex<Vec<Weak<PartitionStatus>>>>,
    consumers: Arc<Mutex<Vec<Weak<ConsumerStatus>>>>,
    deliveries: Arc<Mutex<Vec<Deliveries>>>,
    /// The messages of the queues themselves that were finished. They are counted across subscriptions.
    finished: Arc<Mutex<BTreeMap<QueueName, Arc<RecentCount>>>>,
    relay: Activity,
}

/// Whether a consumer has a subscription.
pub struct ConsumerStatus {
    queue: String,
    /// Why it has none; empty at first.
    error: Mutex<Option<String>>,
}

/// Whether a partition is busy.
pub struct PartitionStatus {
    queue: &'static str,
    activity: Activity,
    /// None if its messages are not those of the queue itself.
    finished: Option<Arc<RecentCount>>,
}

impl Watchdog {
    /// Registers a partition; it is removed when its status is dropped.
    #[must_use]
    pub fn register(&self, queue: &'static str) -> Arc<PartitionStatus> {
        self.add(PartitionStatus { queue, activity: Activity::default(), finished: None })
    }

    /// The same for the messages of the queue itself, which are counted when they are finished.
    #[must_use]
    pub fn register_main(&self, queue: QueueName) -> Arc<PartitionStatus> {
        let finished = Some(self.finished().entry(queue).or_default().clone());
        self.add(PartitionStatus { queue: queue.as_str(), activity: Activity::default(), finished })
    }

    fn add(&self, status: PartitionStatus) -> Arc<PartitionStatus> {
        let status = Arc::new(status);
        let mut partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        partitions.retain(|partition| partition.strong_count() > 0);
        partitions.push(Arc::downgrade(&status));
        status
    }

    /// Registers a consumer, which has no subscription yet; it is removed when its status is dropped.
    #[must_use]
    pub fn register_consumer(&self, queue: String) -> Arc<ConsumerStatus> {
        let status = Arc::new(ConsumerStatus { queue, error: Mutex::new(Some(String::new())) });
        let mut consumers = self.consumers.lock().unwrap_or_else(PoisonError::into_inner);
        consumers.retain(|consumer| consumer.strong_count() > 0);
        consumers.push(Arc::downgrade(&status));
        status
    }

    /// Registers the deliveries of a subscription; they are removed when it has ended.
    pub(super) fn register_deliveries(&self, queue: QueueName, in_flight: &Arc<InFlight>) {
        let mut deliveries = self.deliveries.lock().unwrap_or_else(PoisonError::into_inner);
        deliveries.retain(|(_, in_flight)| in_flight.strong_count() > 0);
        deliveries.push((queue, Arc::downgrade(in_flight)));
    }

    /// The number of messages of a queue, and of its dead letters, that this process has and has not acknowledged.
    #[must_use]
    pub fn unacknowledged(&self, queue: QueueName) -> usize {
        let deliveries = self.deliveries.lock().unwrap_or_else(PoisonError::into_inner);
        let of_queue = deliveries.iter().filter(|(of, _)| *of == queue);
        of_queue.filter_map(|(_, in_flight)| in_flight.upgrade()).map(|in_flight| in_flight.messages()).sum()
    }

    /// How long the partition of a queue that has been busy for longest has been; zero if none is busy.
    #[must_use]
    pub fn busy_for(&self, queue: QueueName) -> Duration {
        let of_queue = self.busy().into_iter().filter(|(busy, _)| *busy == queue.as_str());
        of_queue.map(|(_, busy)| busy).max().unwrap_or_default()
    }

    /// The queues whose consumer in this process has no subscription, by name, and why; the reason is empty at first.
    #[must_use]
    pub fn not_consuming(&self) -> Vec<(String, String)> {
        let consumers = self.consumers.lock().unwrap_or_else(PoisonError::into_inner);
        let consumers = consumers.iter().filter_map(Weak::upgrade);
        let mut queues: Vec<_> =
            consumers.filter_map(|status| Some((status.queue.clone(), status.error().clone()?))).collect();
        queues.sort_unstable();
        queues
    }

    /// The partitions that are busy: their queues, and for how long.
    #[must_use]
    pub fn busy(&self) -> Vec<(&'static str, Duration)> {
        let partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        let partitions = partitions.iter().filter_map(Weak::upgrade);
        partitions.filter_map(|status| Some((status.queue, status.activity.busy_for()?))).collect()
    }

    /// The work on the queues that this process has consumed.
    #[must_use]
    pub fn queues(&self) -> Vec<QueueWork> {
        let finished = self.finished().clone();
        let work = finished.into_iter().map(|(queue, finished)| QueueWork {
            queue: queue.as_str().to_owned(),
            unacknowledged: self.unacknowledged(queue) as u64,
            finished_last_minute: finished.within_last_minute(),
        });
        work.collect()
    }

    fn finished(&self) -> MutexGuard<'_, BTreeMap<QueueName, Arc<RecentCount>>> {
        self.finished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The activity of the relay while it leads.
    #[must_use]
    pub fn relay(&self) -> Activity {
        self.relay.clone()
    }

    /// The queues of partitions that have been busy with one batch for longer than this.
    #[must_use]
    pub fn stalled(&self, longer_than: Duration) -> Vec<&'static str> {
        self.busy().into_iter().filter(|(_, busy)| *busy > longer_than).map(|(queue, _)| queue).collect()
    }
}

impl ConsumerStatus {
    /// It has a subscription.
    pub fn consuming(&self) {
        *self.error() = None;
    }

    /// It has no subscription. True if the reason is another one than before.
    pub fn not_consuming(&self, reason: &str) -> bool {
        let reason = Some(reason.to_owned());
        let is_new = *self.error() != reason;
        *self.error() = reason;
        is_new
    }

    fn error(&self) -> MutexGuard<'_, Option<String>> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PartitionStatus {
    /// The partition begins a batch, or tries it again after waiting for a server.
    pub fn busy(&self) {
        self.activity.begin();
    }

    /// So many messages got an outcome.
    pub fn finished(&self, messages: usize) {
        if let Some(finished) = &self.finished {
            finished.add(messages);
        }
    }

    /// The partition has no batch.
    pub fn idle(&self) {
        self.activity.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_stalled_while_it_is_busy_with_one_batch() {
        let watchdog = Watchdog::default();
        let (busy, idle, dropped) =
            (watchdog.register("orders"), watchdog.register("stock"), watchdog.register("orders"));
        dropped.busy();
        drop(dropped);
        busy.busy();
        idle.busy();
        idle.idle();
        assert_eq!(watchdog.stalled(Duration::ZERO), ["orders"]);
        assert!(watchdog.stalled(Duration::from_mins(1)).is_empty());
    }

    #[test]
    fn finished_messages_are_counted_across_subscriptions_without_requests_and_dead_letters_of_the_broker() {
        let watchdog = Watchdog::default();
        for _ in 0..2 {
            watchdog.register_main(QueueName::Stock).finished(3);
            watchdog.register("stock").finished(5);
        }
        let expected = QueueWork { queue: "stock".into(), unacknowledged: 0, finished_last_minute: 6 };
        assert_eq!(watchdog.queues(), [expected]);
    }
}

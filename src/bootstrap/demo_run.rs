//! Runs the consumer, the bus and the relay on the in-memory adapters.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    adapters::memory::{MemoryQueues, MemoryState, MemoryStore, RecordingPublisher},
    entrypoints::{consumer::Consumer, prefetch::PrefetchLimits, storage::Storage, watchdog::Watchdog},
    ports::{
        observer::NoObserver,
        outbox::Retention,
        queue::{Message, QueueKind, QueueName},
        routing,
        store::ReadModelState,
    },
    service::{
        activity::Activity,
        availability::{AvailabilityLog, Dependencies},
        backoff::RetryPolicy,
        decode::Limits,
        message_bus::MessageBus,
        policy::FailurePolicy,
        relay::Relay,
    },
};

/// The results of the commands.
#[derive(Debug, Default)]
pub struct DemoReport {
    /// The names of the published events, in order.
    pub events: Vec<String>,
    /// Lines that are allocated to a batch.
    pub allocated: usize,
    /// Lines that are backordered.
    pub backordered: usize,
    /// Commands that failed.
    pub failed: usize,
}

/// Handles the commands and publishes their events, all in memory.
pub async fn play_in_memory(commands: Vec<Message>) -> DemoReport {
    let (store, queues, publisher) =
        (MemoryStore::default(), MemoryQueues::default(), RecordingPublisher::default());
    let (database, broker) =
        (Arc::new(AvailabilityLog::of("store")), Arc::new(AvailabilityLog::of("broker")));
    let observer = Arc::new(NoObserver);
    let bus = Arc::new(MessageBus::new(Arc::new(store.clone()), policy(), observer.clone()));
    let consumer = |queue| Consumer {
        queue,
        queue_kind: QueueKind::Main,
        has_delivery_limit: false,
        limits: Limits { body_bytes: usize::MAX, header_bytes: usize::MAX },
        prefetch: PrefetchLimits { messages: 100, bytes: usize::MAX },
        queues: Arc::new(queues.clone()),
        handler: bus.clone(),
        partitions: 1,
        max_batch: 50,
        collect_for: Duration::ZERO,
        requeue_after: Duration::MAX,
        finish_timeout: Duration::MAX,
        storage: Storage::default(),
        watchdog: Watchdog::default(),
        dependencies: Dependencies { database: database.clone(), notifier: None },
        broker: broker.clone(),
        observer: observer.clone(),
    };
    let (orders, stock) = (consumer(QueueName::Orders), consumer(QueueName::Stock));
    let relay = Relay {
        outbox: Arc::new(store.clone()),
        publisher: Arc::new(publisher.clone()),
        max_in_flight: 100,
        max_retry_bytes: usize::MAX,
        retention: Retention { inbox: Duration::MAX, failures: Duration::MAX, published: Duration::ZERO },
        database: database.clone(),
        broker: broker.clone(),
        observer: observer.clone(),
        activity: Activity::default(),
        gauges: None,
    };
    let stop = CancellationToken::new();
    let stop_when_published = async {
        enqueue_in_order(&queues, commands).await;
        while !store.state().await.outbox.is_empty() {
            tokio::task::yield_now().await;
        }
        stop.cancel();
    };
    tokio::join!(orders.run(&stop), stock.run(&stop), relay.run(&stop), stop_when_published);
    let events = publisher.published().into_iter().map(|row| row.name).collect();
    report(&*store.state().await, events)
}

fn policy() -> FailurePolicy {
    FailurePolicy {
        handler_timeout: Duration::from_secs(30),
        retry: RetryPolicy::default(),
        host: "demo".into(),
    }
}

/// Enqueues commands. Before the queue changes, the commands of the other one are handled: the memory store does not retry a
/// command that is handled too early.
async fn enqueue_in_order(queues: &MemoryQueues, commands: Vec<Message>) {
    let mut last = QueueName::Stock;
    for command in commands {
        let queue = routing::queue_of(&command.kind).unwrap_or(last);
        if queue != last {
            queues.drained().await;
        }
        queues.put(queue, command).await;
        last = queue;
    }
    queues.drained().await;
}

fn report(state: &MemoryState, events: Vec<String>) -> DemoReport {
    let lines =
        |is_counted: fn(&ReadModelState) -> bool| state.view.values().filter(|line| is_counted(line)).count();
    DemoReport {
        events,
        allocated: lines(|line| matches!(line, ReadModelState::Allocated(..))),
        backordered: lines(|line| matches!(line, ReadModelState::Backordered(_))),
        failed: state.failures.len(),
    }
}

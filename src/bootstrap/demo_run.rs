//! Runs the consumer, the bus and the relay on the in-memory adapters.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    adapters::memory::{MemoryQueues, MemoryState, MemoryStore, RecordingNotifier, RecordingPublisher},
    entrypoints::{consumer::Consumer, watchdog::Watchdog},
    ports::{
        outbox::Retention,
        queue::{Message, QueueKind, QueueName},
        store::ReadModelState,
    },
    service::{
        availability::AvailabilityLog,
        backoff::RetryPolicy,
        decode::Limits,
        message_bus::{FailurePolicy, MessageBus},
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
    // A single queue keeps the commands in order: the memory store does not retry.
    for command in commands {
        queues.put(QueueName::Orders, command).await;
    }
    let policy = FailurePolicy {
        handler_timeout: Duration::from_secs(30),
        retry: RetryPolicy::default(),
        host: "demo".into(),
    };
    let (database, broker) =
        (Arc::new(AvailabilityLog::of("store")), Arc::new(AvailabilityLog::of("the exchange")));
    let consumer = Consumer {
        queue: QueueName::Orders,
        queue_kind: QueueKind::Main,
        limits: Limits { body_bytes: usize::MAX, header_bytes: usize::MAX },
        queues: Arc::new(queues.clone()),
        bus: MessageBus::new(Arc::new(store.clone()), Arc::new(RecordingNotifier::default()), policy),
        partitions: 1,
        max_batch: 50,
        requeue_after: Duration::MAX,
        finish_timeout: Duration::MAX,
        database: database.clone(),
        watchdog: Watchdog::default(),
        mail: None,
        broker: broker.clone(),
    };
    let relay = Relay {
        outbox: Arc::new(store.clone()),
        publisher: Arc::new(publisher.clone()),
        max_in_flight: 100,
        retention: Retention { inbox: Duration::MAX, failures: Duration::MAX },
        database,
        broker,
    };
    let stop = CancellationToken::new();
    let stop_when_published = async {
        queues.drained().await;
        while !store.state().await.outbox.is_empty() {
            tokio::task::yield_now().await;
        }
        stop.cancel();
    };
    tokio::join!(consumer.run(&stop), relay.run(&stop), stop_when_published);
    let events = publisher.published().into_iter().map(|row| row.name).collect();
    report(&*store.state().await, events)
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

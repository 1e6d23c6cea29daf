//! The same worker, bus and relay, over memory.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    adapters::memory::{MemoryExchange, MemoryNotices, MemoryQueues, MemoryStore},
    entrypoints::{vitals::Vitals, worker::Worker},
    ports::{
        outbox::Retention,
        queue::{Message, QueueName, Stage},
        store::ViewState,
    },
    service::{
        decode::Limits,
        delays::RetryPolicy,
        message_bus::{MessageBus, Policy},
        outage::Outage,
        relay::Relay,
    },
};

/// What a day in memory came to.
#[derive(Debug, Default)]
pub struct Played {
    /// The names of the published events, in order.
    pub events: Vec<String>,
    /// Lines that sit in a batch.
    pub allocated: usize,
    /// Lines that wait.
    pub backordered: usize,
    /// Commands that failed.
    pub failed: usize,
}

/// Plays commands through the same worker, bus and relay, over queues, a store and an exchange in memory.
pub async fn play_in_memory(commands: Vec<Message>) -> Played {
    let (store, queues, exchange) =
        (MemoryStore::default(), MemoryQueues::default(), MemoryExchange::default());
    // One queue, so that nothing comes before what it needs: nothing is tried again here.
    for command in commands {
        queues.put(QueueName::Orders, command).await;
    }
    let policy = Policy {
        handler_timeout: Duration::from_secs(30),
        retry: RetryPolicy::default(),
        host: "demo".into(),
    };
    let (database, broker) = (Arc::new(Outage::of("the store")), Arc::new(Outage::of("the exchange")));
    let worker = Worker {
        queue: QueueName::Orders,
        stage: Stage::Work,
        limits: Limits { body: usize::MAX, headers: usize::MAX },
        queues: Arc::new(queues.clone()),
        bus: MessageBus::new(Arc::new(store.clone()), Arc::new(MemoryNotices::default()), policy),
        lanes: 1,
        max_batch: 50,
        hold: Duration::MAX,
        finish_within: Duration::MAX,
        database: database.clone(),
        vitals: Vitals::default(),
        mail: None,
        broker: broker.clone(),
    };
    let relay = Relay {
        outbox: Arc::new(store.clone()),
        publisher: Arc::new(exchange.clone()),
        window: 100,
        retention: Retention { inbox: Duration::MAX, failures: Duration::MAX },
        database,
        broker,
    };
    let stop = CancellationToken::new();
    let published = async {
        queues.drained().await;
        while !store.kept().await.outbox.is_empty() {
            tokio::task::yield_now().await;
        }
        stop.cancel();
    };
    tokio::join!(worker.run(&stop), relay.run(&stop), published);
    let kept = store.kept().await;
    Played {
        events: exchange.published().into_iter().map(|row| row.name).collect(),
        allocated: kept.view.values().filter(|state| matches!(state, ViewState::Allocated(..))).count(),
        backordered: kept.view.values().filter(|state| matches!(state, ViewState::Backordered(_))).count(),
        failed: kept.failures.len(),
    }
}

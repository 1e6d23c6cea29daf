//! The worker over queues that a test controls: its pace, and what it does with messages during an outage.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use allocation::{
    adapters::memory::MemoryStore,
    entrypoints::{consumer::Consumer, watchdog::Watchdog},
    ports::{
        error::{BrokerError, StoreError},
        queue::{Acknowledger, Delivery, Message, Prefetch, QueueKind, QueueName, Queues, Subscription},
        store::{Store, Tx},
    },
    service::availability::AvailabilityLog,
};
use async_trait::async_trait;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::harness::{LIMITS, SOON, bus, create_batch, message, wait_for, wait_until};

/// A queue that remembers how it was subscribed to.
#[derive(Clone, Default)]
struct Queue {
    state: Arc<Mutex<State>>,
    filled: Arc<Notify>,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Message>,
    /// Deliveries that are not settled, by their tags.
    delivered: BTreeMap<u64, Message>,
    settled: usize,
    last_tag: u64,
    /// The pace of every subscription, in order.
    paces: Vec<Prefetch>,
    /// So many of the next subscriptions break as soon as they are read.
    broken: usize,
}

impl Queue {
    fn of(batches: usize) -> Self {
        let queue = Self::default();
        let batches = (0..batches).map(|number| create_batch(&format!("b-{number}"), "LAMP", 1));
        let messages = batches.map(|batch| message(&batch.message_id, batch.kind, &batch.body));
        queue.state().ready.extend(messages);
        queue
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

#[async_trait]
impl Queues for Queue {
    async fn subscribe(
        &self,
        _queue: QueueName,
        _stage: QueueKind,
        prefetch: Prefetch,
    ) -> Result<Box<dyn Subscription>, BrokerError> {
        let mut state = self.state();
        state.paces.push(prefetch);
        let breaks = state.broken > 0;
        state.broken -= usize::from(breaks);
        Ok(Box::new(Reader { queue: self.clone(), breaks }))
    }
}

struct Reader {
    queue: Queue,
    breaks: bool,
}

#[async_trait]
impl Subscription for Reader {
    async fn next(&mut self) -> Result<Delivery, BrokerError> {
        if self.breaks {
            return Err(BrokerError::Unavailable("broken".into()));
        }
        loop {
            let filled = self.queue.filled.notified();
            {
                let mut state = self.queue.state();
                if let Some(message) = state.ready.pop_front() {
                    state.last_tag += 1;
                    let tag = state.last_tag;
                    state.delivered.insert(tag, message.clone());
                    return Ok(Delivery { tag, redelivered: false, message });
                }
            }
            filled.await;
        }
    }

    fn acknowledger(&self) -> Arc<dyn Acknowledger> {
        Arc::new(self.queue.clone())
    }

    async fn close(self: Box<Self>) {
        let mut state = self.queue.state();
        let returned = std::mem::take(&mut state.delivered);
        state.ready.extend(returned.into_values());
        self.queue.filled.notify_waiters();
    }
}

#[async_trait]
impl Acknowledger for Queue {
    async fn ack(&self, tags: &[u64]) {
        let mut state = self.state();
        for tag in tags {
            state.settled += usize::from(state.delivered.remove(tag).is_some());
        }
    }

    fn is_closed(&self) -> bool {
        false
    }
}

/// A store that can become unavailable.
#[derive(Clone, Default)]
struct Unreliable {
    inner: MemoryStore,
    unavailable: Arc<AtomicBool>,
    failed_probes: Arc<AtomicUsize>,
}

impl Unreliable {
    fn available(&self) -> Result<(), StoreError> {
        if self.unavailable.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("cut off".into()));
        }
        Ok(())
    }
}

#[async_trait]
impl Store for Unreliable {
    async fn begin(&self, queue: QueueName) -> Result<Box<dyn Tx>, StoreError> {
        self.available()?;
        self.inner.begin(queue).await
    }

    async fn probe(&self) -> Result<(), StoreError> {
        let probed = self.available();
        self.failed_probes.fetch_add(usize::from(probed.is_err()), Ordering::SeqCst);
        probed
    }

    async fn unfinished_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<Vec<u32>, StoreError> {
        self.available()?;
        self.inner.unfinished_starts(queue, ids).await
    }

    async fn record_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<(), StoreError> {
        self.available()?;
        self.inner.record_starts(queue, ids).await
    }

    async fn revert_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<(), StoreError> {
        self.available()?;
        self.inner.revert_starts(queue, ids).await
    }
}

/// A worker that works until the test ends.
fn start(queue: &Queue, store: Arc<dyn Store>) {
    let worker = Consumer {
        queue: QueueName::Stock,
        queue_kind: QueueKind::Main,
        limits: LIMITS,
        queues: Arc::new(queue.clone()),
        bus: bus(store),
        partitions: 2,
        max_batch: 100,
        requeue_after: Duration::from_millis(50),
        finish_timeout: Duration::from_secs(10),
        watchdog: Watchdog::default(),
        database: Arc::new(AvailabilityLog::of("database")),
        mail: None,
        broker: Arc::new(AvailabilityLog::of("broker")),
    };
    tokio::spawn(async move { worker.run(&CancellationToken::new()).await });
}

#[tokio::test]
async fn after_a_subscription_that_breaks_at_once_some_messages_are_taken_one_by_one() {
    let queue = Queue::of(30);
    queue.state().broken = 1;
    start(&queue, Arc::new(MemoryStore::default()));
    wait_for("everything is handled", SOON, &30, async || queue.state().settled).await;
    assert_eq!(queue.state().paces, [Prefetch::Configured, Prefetch::One, Prefetch::Configured]);
}

#[tokio::test]
async fn in_a_long_outage_messages_are_handed_back_and_none_is_taken() {
    let (queue, store) = (Queue::of(3), Unreliable::default());
    store.unavailable.store(true, Ordering::SeqCst);
    start(&queue, Arc::new(store.clone()));
    let probed = async || store.failed_probes.load(Ordering::SeqCst) >= 3;
    wait_until("the store was asked again and again", SOON, probed).await;
    {
        let state = queue.state();
        assert_eq!((state.ready.len(), state.delivered.len(), state.settled), (3, 0, 0));
        assert_eq!(state.paces.len(), 1, "nothing is taken during the outage");
    }
    store.unavailable.store(false, Ordering::SeqCst);
    wait_for("everything is handled", SOON, &3, async || queue.state().settled).await;
}

//! A queue, its workers and the relay over the store in memory, one step at a time, and the state that strict order leads to.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use allocation::{
    adapters::memory::MemoryStore,
    domain::{
        Batch, BatchRef, BatchSearch, FailedMessageKey, MessageKey, Product, RetryDecision, Sku, Status,
    },
    ports::{
        error::StoreError,
        failed_messages::DueRetry,
        outbox::{LeaderSession, Outbox as _},
        queue::{Message, QueueName, RetryMark},
        store::{
            ChangeSet, InboxCheck, LoadedProducts, LockMode, OrderCheck, OrderedMessage, RetryCheck, Store,
            Tx, WorkingSet,
        },
    },
    service::{message_bus::MessageBus, received::ReceivedMessage},
};
use async_trait::async_trait;

use crate::harness::{Command, HandleAll as _, LIMITS, bus, message, queue_of};

/// A command with this many failed attempts is dead: the default of `retry.max_attempts`.
pub(super) const MAX_ATTEMPTS: u32 = 5;

/// A mistake in the order of commands, to see that the runs find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mistake {
    None,
    /// A message that waits is tried after some time, not after its predecessor.
    ReleasesByTime,
    /// Nothing is released when a predecessor ends.
    ReleasesNothing,
}

/// A command, and how many of its first attempts fail.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) command: Command,
    pub(super) failures: u32,
}

/// Lines with their quantities, and batches with their purchased quantities.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) lines: BTreeMap<(String, String), u64>,
    pub(super) batches: BTreeMap<String, u64>,
}

impl State {
    /// What a command does whose predecessors with its key have ended.
    pub(super) fn apply(&mut self, sent: &Sent) {
        if sent.failures >= MAX_ATTEMPTS {
            return;
        }
        let body = &sent.command.body;
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let quantity = body["qty"].as_u64().unwrap_or_default();
        match sent.command.kind {
            // An existing line with another quantity is kept: the command is rejected.
            "allocate" => drop(self.lines.entry((text("orderid"), text("sku"))).or_insert(quantity)),
            "deallocate" => drop(self.lines.remove(&(text("orderid"), text("sku")))),
            "change_batch_quantity" => drop(self.batches.insert(text("batchref"), quantity)),
            _ => drop(self.batches.entry(text("ref")).or_insert(quantity)),
        }
    }
}

/// A store in which attempts fail as the commands say.
#[derive(Clone)]
struct FailingStore {
    memory: MemoryStore,
    /// How many attempts of each command still fail.
    failures: Arc<Mutex<HashMap<Arc<str>, u32>>>,
    /// The number of recorded attempts that are subtracted from them.
    seen: Arc<Mutex<usize>>,
    mistake: Mistake,
}

#[async_trait]
impl Store for FailingStore {
    async fn begin_with(&self, queue: QueueName, locks: LockMode) -> Result<Box<dyn Tx>, StoreError> {
        let inner = self.memory.begin_with(queue, locks).await?;
        Ok(Box::new(FailingTx { inner, store: self.clone(), ids: Vec::new() }))
    }

    async fn probe(&self) -> Result<(), StoreError> {
        Store::probe(&self.memory).await
    }

    async fn unfinished_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<Vec<u32>, StoreError> {
        self.memory.unfinished_starts(queue, ids).await
    }

    async fn record_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<(), StoreError> {
        self.memory.record_starts(queue, ids).await
    }

    async fn revert_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<(), StoreError> {
        self.memory.revert_starts(queue, ids).await
    }
}

struct FailingTx {
    inner: Box<dyn Tx>,
    store: FailingStore,
    ids: Vec<Arc<str>>,
}

#[async_trait]
impl Tx for FailingTx {
    async fn check_inbox(&mut self, keys: &[MessageKey]) -> Result<Vec<InboxCheck>, StoreError> {
        self.ids.extend(keys.iter().map(|key| key.message_id.clone()));
        self.inner.check_inbox(keys).await
    }

    async fn check_retries(&mut self, marks: &[RetryMark]) -> Result<Vec<RetryCheck>, StoreError> {
        self.inner.check_retries(marks).await
    }

    async fn check_order(&mut self, messages: &[OrderedMessage]) -> Result<Vec<OrderCheck>, StoreError> {
        let mut checks = self.inner.check_order(messages).await?;
        if self.store.mistake == Mistake::ReleasesByTime {
            for check in &mut checks {
                check.is_behind &= check.own.is_none();
            }
        }
        Ok(checks)
    }

    async fn failed_attempts(&mut self, keys: &[FailedMessageKey]) -> Result<Vec<u32>, StoreError> {
        self.inner.failed_attempts(keys).await
    }

    async fn load_products(&mut self, working_set: &WorkingSet) -> Result<LoadedProducts, StoreError> {
        {
            let failures = self.store.failures.lock().unwrap();
            if self.ids.iter().any(|id| failures.get(id).is_some_and(|left| *left > 0)) {
                return Err(StoreError::Failed("an attempt fails".into()));
            }
        }
        self.inner.load_products(working_set).await
    }

    async fn search_batches(&mut self, sku: &Sku, search: &BatchSearch) -> Result<Vec<Batch>, StoreError> {
        self.inner.search_batches(sku, search).await
    }

    async fn load_waiting_lines(&mut self, product: &mut Product) -> Result<(), StoreError> {
        self.inner.load_waiting_lines(product).await
    }

    async fn load_newest_lines(
        &mut self,
        product: &mut Product,
        batch: &BatchRef,
        units: u32,
    ) -> Result<(), StoreError> {
        self.inner.load_newest_lines(product, batch, units).await
    }

    async fn commit(self: Box<Self>, mut work: ChangeSet) -> Result<(), StoreError> {
        match self.store.mistake {
            Mistake::None => {}
            Mistake::ReleasesNothing => work.released.clear(),
            Mistake::ReleasesByTime => {
                for waiting in work.failures.iter_mut().filter(|failure| failure.next == RetryDecision::Wait)
                {
                    waiting.next = RetryDecision::Retry(Duration::from_secs(2));
                }
            }
        }
        self.inner.commit(work).await?;
        // An attempt that is not recorded, of a message that was delivered again, does not count.
        let recorded = self.store.memory.state().await;
        let mut seen = self.store.seen.lock().unwrap();
        let mut failures = self.store.failures.lock().unwrap();
        for (_, attempt) in &recorded.failures[*seen..] {
            if let Some(left) = attempt.key.message_id.as_ref().and_then(|id| failures.get_mut(id))
                && attempt.next.was_attempted()
            {
                *left = left.saturating_sub(1);
            }
        }
        *seen = recorded.failures.len();
        Ok(())
    }

    async fn rollback(self: Box<Self>) {
        self.inner.rollback().await;
    }
}

/// Messages of one queue.
#[derive(Default)]
struct Queue {
    messages: VecDeque<(Message, bool)>,
}

/// Workers of which one at a time is active, a relay, and their queues.
pub(super) struct Simulation {
    store: FailingStore,
    workers: Vec<MessageBus>,
    active: usize,
    relay: Box<dyn LeaderSession>,
    orders: Queue,
    stock: Queue,
}

impl Simulation {
    pub(super) async fn new(workers: usize, mistake: Mistake) -> Self {
        let (memory, failures, seen) = (MemoryStore::default(), Arc::default(), Arc::default());
        let store = FailingStore { memory, failures, seen, mistake };
        let relay = store.memory.try_lead().await.unwrap().expect("there is no other leader");
        let workers = (0..workers).map(|_| bus(Arc::new(store.clone()))).collect();
        Self { store, workers, active: 0, relay, orders: Queue::default(), stock: Queue::default() }
    }

    fn queue(&mut self, queue: QueueName) -> &mut Queue {
        if queue == QueueName::Orders { &mut self.orders } else { &mut self.stock }
    }

    pub(super) fn send(&mut self, sent: &Sent) {
        let Sent { command, failures } = sent;
        let id = command.message_id.as_str();
        self.store.failures.lock().unwrap().insert(id.into(), *failures);
        let message = message(id, command.kind, &command.body);
        self.queue(queue_of(command)).messages.push_back((message, false));
    }

    /// Handles up to `count` messages of a queue. Without an acknowledgement they are delivered again, to the next worker.
    pub(super) async fn handle(&mut self, queue: QueueName, count: usize, acknowledge: bool) {
        let messages = &mut self.queue(queue).messages;
        let taken: Vec<_> = messages.drain(..count.min(messages.len())).collect();
        let receive = |(message, redelivered): &(Message, bool)| {
            ReceivedMessage::read(queue, message.clone(), *redelivered, LIMITS)
        };
        let mut batch: Vec<_> = taken.iter().map(receive).collect();
        self.workers[self.active].handle_all(queue, &mut batch).await.unwrap();
        if !acknowledge {
            self.active = (self.active + 1) % self.workers.len();
            for (message, _) in taken.into_iter().rev() {
                self.queue(queue).messages.push_front((message, true));
            }
        }
    }

    /// Publishes up to `count` retries that are due.
    pub(super) async fn publish_retries(&mut self, count: u32) {
        let due = self.relay.due(count, usize::MAX).await.unwrap();
        self.relay.published(&due.iter().collect::<Vec<_>>()).await.unwrap();
        for retry in due {
            let queue = if retry.queue == "orders" { QueueName::Orders } else { QueueName::Stock };
            self.queue(queue).messages.push_back((copy(retry), false));
        }
    }

    /// Handles everything, with all retries. True if nothing is left.
    pub(super) async fn finish(&mut self) -> bool {
        loop {
            for queue in [QueueName::Orders, QueueName::Stock] {
                self.handle(queue, usize::MAX, true).await;
            }
            self.publish_retries(u32::MAX).await;
            if self.orders.messages.is_empty() && self.stock.messages.is_empty() {
                match self.relay.pending().await.unwrap().retry_in {
                    Some(delay) => tokio::time::advance(delay + Duration::from_millis(1)).await,
                    None => break,
                }
            }
        }
        let state = self.store.memory.state().await;
        let messages = (1..).map_while(|id| state.failed_message(id));
        messages.into_iter().all(|message| message.status != Status::Waiting)
    }

    /// The lines and batches of these products.
    pub(super) async fn state(&self, skus: &[&str]) -> State {
        let stored = self.store.memory.state().await;
        let mut state = State::default();
        for sku in skus {
            let Some(product) = stored.product(&Sku::new(sku).unwrap()) else { continue };
            for orderid in product.known_lines() {
                let line = product.line(orderid).expect("the line is known");
                state.lines.insert((orderid.to_string(), (*sku).to_owned()), line.quantity.get().into());
            }
            for batch in product.batches().iter() {
                state.batches.insert(batch.reference.to_string(), batch.purchased().into());
            }
        }
        state
    }
}

fn copy(retry: DueRetry) -> Message {
    let mark = RetryMark { failed_message_id: retry.id, generation: retry.generation, secret: retry.secret };
    Message {
        kind: retry.kind,
        message_id: retry.message_id,
        body: retry.body.into(),
        retry: Some(mark),
        ..Message::default()
    }
}

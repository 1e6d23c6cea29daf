//! A queue with scripted faults. Unacknowledged messages of an ended subscription are redelivered in their order.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use allocation::{
    entrypoints::{consumer::Consumer, storage::Storage, watchdog::Watchdog},
    ports::{
        error::BrokerError,
        observer::NoObserver,
        queue::{Acknowledger, Delivery, Message, QueueKind, QueueName, Queues, Subscription},
    },
    service::availability::{AvailabilityLog, Dependencies},
};
use async_trait::async_trait;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::harness::PREFETCH;

use super::{LIMITS, ScriptedStore, bus};

/// The deadline for a shutdown of the consumer; its shutdown timeout is eight seconds.
const STOPS_WITHIN: Duration = Duration::from_mins(1);

#[derive(Default)]
struct State {
    ready: VecDeque<(Message, bool)>,
    /// Unacknowledged deliveries, by subscription and tag.
    unacknowledged: BTreeMap<(usize, u64), Message>,
    subscriptions: Vec<(Instant, u16)>,
    delivered: usize,
    acknowledged: Vec<String>,
    /// The number of deliveries after which each of the next subscriptions breaks; `None` if it does not.
    breaks: VecDeque<Option<usize>>,
    break_now: bool,
}

/// Clones share one queue.
#[derive(Clone, Default)]
pub(crate) struct ScriptedQueues {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

fn id_of(message: &Message) -> String {
    message.message_id.clone().unwrap_or_default()
}

impl ScriptedQueues {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn put(&self, messages: impl IntoIterator<Item = Message>) {
        self.state().ready.extend(messages.into_iter().map(|message| (message, false)));
        self.changed.notify_one();
    }

    /// Makes the next deliveries of the ready messages redeliveries.
    pub(crate) fn mark_all_redelivered(&self) {
        self.state().ready.iter_mut().for_each(|(_, redelivered)| *redelivered = true);
    }

    /// Removes the ready messages, as if another worker had handled them.
    pub(crate) fn remove_ready(&self) {
        self.state().ready.clear();
    }

    /// Sets the number of deliveries after which each of the next subscriptions breaks; `None` if it does not.
    pub(crate) fn set_breaks(&self, breaks: impl IntoIterator<Item = Option<usize>>) {
        self.state().breaks.extend(breaks);
    }

    /// Breaks the current subscription.
    pub(crate) fn break_now(&self) {
        self.state().break_now = true;
        self.changed.notify_one();
    }

    /// The ids of the ready messages, in order.
    pub(crate) fn ready(&self) -> Vec<String> {
        self.state().ready.iter().map(|(message, _)| id_of(message)).collect()
    }

    /// The ids of the acknowledged messages, in order.
    pub(crate) fn acknowledged(&self) -> Vec<String> {
        self.state().acknowledged.clone()
    }

    /// The number of deliveries.
    pub(crate) fn delivered(&self) -> usize {
        self.state().delivered
    }

    /// The prefetch of each subscription.
    pub(crate) fn prefetches(&self) -> Vec<u16> {
        self.state().subscriptions.iter().map(|(_, prefetch)| *prefetch).collect()
    }

    /// The seconds from each subscription to the next.
    pub(crate) fn gaps(&self) -> Vec<f64> {
        let state = self.state();
        let times: Vec<_> = state.subscriptions.iter().map(|(time, _)| *time).collect();
        times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect()
    }
}

#[async_trait]
impl Queues for ScriptedQueues {
    async fn subscribe(
        &self,
        _queue: QueueName,
        _kind: QueueKind,
        prefetch: u16,
        _bytes: usize,
    ) -> Result<Box<dyn Subscription>, BrokerError> {
        let mut state = self.state();
        state.subscriptions.push((Instant::now(), prefetch));
        let number = state.subscriptions.len();
        let breaks_after = state.breaks.pop_front().flatten();
        drop(state);
        Ok(Box::new(ScriptedSubscription {
            queues: self.clone(),
            number,
            prefetch,
            breaks_after,
            last_tag: 0,
        }))
    }
}

struct ScriptedSubscription {
    queues: ScriptedQueues,
    number: usize,
    prefetch: u16,
    breaks_after: Option<usize>,
    last_tag: u64,
}

impl ScriptedSubscription {
    fn try_next(&mut self) -> Option<Result<Delivery, BrokerError>> {
        let mut state = self.queues.state();
        if std::mem::take(&mut state.break_now) || self.breaks_after == Some(0) {
            return Some(Err(BrokerError::Unavailable("connection lost".into())));
        }
        if self.prefetch == 1 && !state.unacknowledged.is_empty() {
            return None;
        }
        let (message, redelivered) = state.ready.pop_front()?;
        self.breaks_after = self.breaks_after.map(|left| left - 1);
        self.last_tag += 1;
        state.delivered += 1;
        state.unacknowledged.insert((self.number, self.last_tag), message.clone());
        Some(Ok(Delivery { tag: self.last_tag, redelivered, message }))
    }
}

#[async_trait]
impl Subscription for ScriptedSubscription {
    async fn next(&mut self) -> Result<Delivery, BrokerError> {
        loop {
            if let Some(next) = self.try_next() {
                return next;
            }
            self.queues.changed.notified().await;
        }
    }

    fn acknowledger(&self) -> Arc<dyn Acknowledger> {
        Arc::new(ScriptedAcknowledger { queues: self.queues.clone(), subscription: self.number })
    }

    async fn close(self: Box<Self>) {}
}

impl Drop for ScriptedSubscription {
    fn drop(&mut self) {
        let mut state = self.queues.state();
        let returned = state.unacknowledged.split_off(&(self.number, 0));
        for message in returned.into_values().rev() {
            state.ready.push_front((message, true));
        }
    }
}

struct ScriptedAcknowledger {
    queues: ScriptedQueues,
    subscription: usize,
}

#[async_trait]
impl Acknowledger for ScriptedAcknowledger {
    async fn ack(&self, tags: &[u64]) {
        let mut state = self.queues.state();
        for tag in tags {
            let message = state
                .unacknowledged
                .remove(&(self.subscription, *tag))
                .expect("a delivery is acknowledged once");
            state.acknowledged.push(id_of(&message));
        }
        self.queues.changed.notify_one();
    }

    fn is_closed(&self) -> bool {
        false
    }
}

/// A consumer with one partition and one message per unit of work. It requeues messages after three seconds of an outage, and
/// has a shutdown timeout of eight seconds.
pub(crate) fn consumer(queues: &ScriptedQueues, store: &ScriptedStore) -> Consumer {
    Consumer {
        queue: QueueName::Stock,
        queue_kind: QueueKind::Main,
        has_delivery_limit: true,
        limits: LIMITS,
        prefetch: PREFETCH,
        queues: Arc::new(queues.clone()),
        handler: Arc::new(bus(store)),
        partitions: 1,
        max_batch: 1,
        collect_for: Duration::ZERO,
        requeue_after: Duration::from_secs(3),
        finish_timeout: Duration::from_secs(8),
        watchdog: Watchdog::default(),
        storage: Storage::default(),
        dependencies: Dependencies { database: Arc::new(AvailabilityLog::of("database")), notifier: None },
        broker: Arc::new(AvailabilityLog::of("broker")),
        observer: Arc::new(NoObserver),
    }
}

/// A consumer that runs until it is stopped.
pub(crate) struct RunningConsumer {
    stop: CancellationToken,
    run: tokio::task::JoinHandle<()>,
}

impl RunningConsumer {
    pub(crate) fn start(consumer: Consumer) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        Self { stop, run: tokio::spawn(async move { consumer.run(&stopped).await }) }
    }

    /// Stops the consumer and returns the duration of the shutdown.
    pub(crate) async fn stop(self) -> Duration {
        let begin = Instant::now();
        self.stop.cancel();
        let stopped = tokio::time::timeout(STOPS_WITHIN, self.run).await;
        stopped.expect("the consumer stops").unwrap();
        begin.elapsed()
    }
}

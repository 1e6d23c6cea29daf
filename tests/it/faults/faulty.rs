//! Ports that pass everything on, except for one fault, and a worker process whose ports are wrapped like this.

mod leader;

use std::{
    sync::{Arc, atomic::AtomicU32},
    time::Duration,
};

use allocation::{
    adapters::{
        postgres::{CommitSignal, PgOutbox, PgStore},
        rabbitmq::{RabbitConfig, RabbitPublisher, RabbitQueues},
    },
    entrypoints::{consumer::Consumer, storage::Storage, watchdog::Watchdog},
    pg::PgConfig,
    ports::{
        error::{BrokerError, StoreError},
        observer::NoObserver,
        outbox::{LeaderSession, Outbox, Retention},
        queue::{Acknowledger, Delivery, QueueKind, QueueName, Queues, Subscription},
    },
    service::{
        activity::Activity,
        availability::{AvailabilityLog, Dependencies},
        backoff::RetryPolicy,
        message_bus::MessageBus,
        policy::FailurePolicy,
        relay::Relay,
    },
};
use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::harness::{LIMITS, PREFETCH, amqp_url};

use super::FAULT;

/// What is wrong with a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It dies when it loads the crashing product.
    DiesLoading,
    /// The first two loads of the crashing product fail.
    FailsTwice,
    /// Its store is unavailable at the first two loads of the crashing product.
    UnavailableTwice,
    /// Its handler panics on the crashing product.
    Panics,
    /// Its partition panics on the crashing product, outside of any handler.
    PartitionPanics,
    /// Its handler never ends on the crashing product.
    Hangs,
    /// It dies after the commit, before the acknowledgement.
    DiesBeforeAck,
    /// It dies before the commit.
    DiesBeforeCommit,
    /// It dies after a retry was published, before this is recorded.
    DiesBeforeMarkingRetries,
    None,
}

const HOUR: Duration = Duration::from_hours(1);

const FAULTS: [Fault; 10] = [
    Fault::DiesLoading,
    Fault::FailsTwice,
    Fault::UnavailableTwice,
    Fault::Panics,
    Fault::PartitionPanics,
    Fault::Hangs,
    Fault::DiesBeforeAck,
    Fault::DiesBeforeCommit,
    Fault::DiesBeforeMarkingRetries,
    Fault::None,
];

/// Ports that pass everything on, except where the fault says otherwise.
#[derive(Clone)]
pub(crate) struct FaultyPort<T> {
    pub(super) inner: T,
    pub(super) fault: Fault,
    /// Units of work, if it is a store.
    pub(super) begun: Arc<AtomicU32>,
    pub(super) failed: Arc<AtomicU32>,
}

impl<T> FaultyPort<T> {
    pub(crate) fn around(inner: T, fault: Fault) -> Self {
        Self { inner, fault, begun: Arc::default(), failed: Arc::default() }
    }

    pub(super) fn die_if(&self, fault: Fault) {
        if self.fault == fault {
            std::process::abort();
        }
    }
}

#[async_trait]
impl Queues for FaultyPort<RabbitQueues> {
    async fn subscribe(
        &self,
        queue: QueueName,
        queue_kind: QueueKind,
        prefetch: u16,
        bytes: usize,
    ) -> Result<Box<dyn Subscription>, BrokerError> {
        let inner = self.inner.subscribe(queue, queue_kind, prefetch, bytes).await?;
        Ok(Box::new(FaultyPort::around(inner, self.fault)))
    }
}

#[async_trait]
impl Subscription for FaultyPort<Box<dyn Subscription>> {
    async fn next(&mut self) -> Result<Delivery, BrokerError> {
        self.inner.next().await
    }

    fn acknowledger(&self) -> Arc<dyn Acknowledger> {
        Arc::new(FaultyPort::around(self.inner.acknowledger(), self.fault))
    }

    async fn close(self: Box<Self>) {
        self.inner.close().await;
    }
}

#[async_trait]
impl Acknowledger for FaultyPort<Arc<dyn Acknowledger>> {
    async fn ack(&self, tags: &[u64]) {
        self.die_if(Fault::DiesBeforeAck);
        self.inner.ack(tags).await;
    }

    fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }
}

#[async_trait]
impl Outbox for FaultyPort<PgOutbox> {
    async fn try_lead(&self) -> Result<Option<Box<dyn LeaderSession>>, StoreError> {
        let inner = self.inner.try_lead().await?;
        Ok(inner.map(|inner| Box::new(FaultyPort::around(inner, self.fault)) as Box<dyn LeaderSession>))
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.inner.probe().await
    }

    async fn wait_for_wakeup(&self) {
        self.inner.wait_for_wakeup().await;
    }
}

fn policy() -> FailurePolicy {
    let retry = RetryPolicy {
        max_attempts: 3,
        initial_interval: Duration::from_millis(100),
        multiplier: 1.0,
        ..RetryPolicy::default()
    };
    FailurePolicy { handler_timeout: Duration::from_millis(300), retry, host: "crashing".into() }
}

/// Not a test: the worker process that the tests start.
#[tokio::test]
#[ignore = "other tests start it"]
async fn a_worker_with_a_fault() {
    let name = std::env::var(FAULT).expect("a test starts it with a fault");
    let fault = FAULTS.into_iter().find(|fault| format!("{fault:?}") == name).unwrap();
    let variable = |name: &str| std::env::var(name).unwrap();
    let access = PgConfig::new(&variable("DATABASE_URL"), 10, Duration::from_secs(5)).unwrap();
    let namespace = variable("ALLOCATION__NAMESPACE");
    let broker = RabbitConfig::new(&amqp_url(), &namespace).unwrap();
    let commit_signal = Arc::<CommitSignal>::default();
    let store = FaultyPort::around(PgStore::new(access.pool(), &access, commit_signal.clone()), fault);
    let policy = policy();
    let (database, broker_outage) =
        (Arc::new(AvailabilityLog::of("database")), Arc::new(AvailabilityLog::of("the broker")));
    let worker = |queue| Consumer {
        queue,
        queue_kind: QueueKind::Main,
        has_delivery_limit: true,
        limits: LIMITS,
        prefetch: PREFETCH,
        queues: Arc::new(FaultyPort::around(RabbitQueues(broker.clone()), fault)),
        handler: Arc::new(MessageBus::new(Arc::new(store.clone()), policy.clone(), Arc::new(NoObserver))),
        partitions: 2,
        max_batch: 100,
        collect_for: Duration::ZERO,
        requeue_after: Duration::from_mins(1),
        finish_timeout: Duration::from_secs(10),
        watchdog: Watchdog::default(),
        storage: Storage::default(),
        dependencies: Dependencies { database: database.clone(), notifier: None },
        broker: broker_outage.clone(),
        observer: Arc::new(NoObserver),
    };
    let relay = Relay {
        outbox: Arc::new(FaultyPort::around(PgOutbox::new(access, &namespace, commit_signal), fault)),
        publisher: Arc::new(RabbitPublisher::new(broker.clone())),
        max_in_flight: 100,
        max_retry_bytes: usize::MAX,
        retention: Retention { inbox: HOUR, failures: HOUR, published: HOUR },
        database: database.clone(),
        broker: broker_outage.clone(),
        observer: Arc::new(NoObserver),
        activity: Activity::default(),
        gauges: None,
    };
    let forever = CancellationToken::new();
    let (orders, stock) = (worker(QueueName::Orders), worker(QueueName::Stock));
    tokio::join!(orders.run(&forever), stock.run(&forever), relay.run(&forever));
}

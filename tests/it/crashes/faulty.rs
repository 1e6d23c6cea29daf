//! Ports that pass everything on, except for one fault, and a worker process whose ports are wrapped like this.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use allocation::{
    adapters::{
        memory::MemoryNotices,
        postgres::{Access, Commits, PgOutbox, PgStore},
        rabbitmq::{Broker, EventPublisher, RabbitQueues},
    },
    domain::{Product, Reference},
    entrypoints::{vitals::Vitals, worker::Worker},
    ports::{
        ledger::{DueRetry, FailureKey},
        outbox::{Lead, Look, Outbox, OutboxRow, Retention},
        queue::{BrokerError, Delivery, Pace, QueueName, Queues, RetryMark, Settler, Stage, Subscription},
        store::{Footprint, Receipt, RetryCheck, Sight, Store, StoreError, Tx, Work},
    },
    service::{
        delays::RetryPolicy,
        message_bus::{MessageBus, Policy},
        outage::Outage,
        relay::Relay,
    },
};
use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::harness::{LIMITS, amqp_url};

use super::{CURSED, FAULT};

/// What is wrong with a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It dies when it loads a cursed product.
    DiesLoading,
    /// It cannot load a cursed product the first two times.
    FailsTwice,
    /// Its store is unavailable the first two times that it loads a cursed product.
    UnavailableTwice,
    /// Its handler panics over a cursed product.
    Panics,
    /// Its lane panics over a cursed product, outside of any handler.
    LanePanics,
    /// Its handler never ends over a cursed product.
    Hangs,
    /// It dies after the commit, before the acknowledgement.
    DiesBeforeSettling,
    /// It dies before the commit.
    DiesBeforeCommit,
    /// It dies after a retry was published, before that is noted.
    DiesBeforeNotingRetries,
    /// Nothing is.
    None,
}

const FAULTS: [Fault; 10] = [
    Fault::DiesLoading,
    Fault::FailsTwice,
    Fault::UnavailableTwice,
    Fault::Panics,
    Fault::LanePanics,
    Fault::Hangs,
    Fault::DiesBeforeSettling,
    Fault::DiesBeforeCommit,
    Fault::DiesBeforeNotingRetries,
    Fault::None,
];

/// Ports that pass everything on, except where the fault says otherwise.
#[derive(Clone)]
pub(crate) struct Faulty<T> {
    inner: T,
    fault: Fault,
    /// Units of work, if it is a store.
    pub(super) begun: Arc<AtomicU32>,
    failed: Arc<AtomicU32>,
}

impl<T> Faulty<T> {
    pub(crate) fn around(inner: T, fault: Fault) -> Self {
        Self { inner, fault, begun: Arc::default(), failed: Arc::default() }
    }

    fn die_if(&self, fault: Fault) {
        if self.fault == fault {
            std::process::abort();
        }
    }
}

#[async_trait]
impl<S: Store> Store for Faulty<S> {
    async fn begin(&self, queue: QueueName) -> Result<Box<dyn Tx>, StoreError> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let inner = self.inner.begin(queue).await?;
        Ok(Box::new(Faulty {
            inner,
            fault: self.fault,
            begun: self.begun.clone(),
            failed: self.failed.clone(),
        }))
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.inner.probe().await
    }

    async fn starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<Vec<u32>, StoreError> {
        self.inner.starts(queue, ids).await
    }

    async fn count_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<(), StoreError> {
        self.inner.count_starts(queue, ids).await
    }

    async fn take_back_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<(), StoreError> {
        self.inner.take_back_starts(queue, ids).await
    }
}

#[async_trait]
impl Tx for Faulty<Box<dyn Tx>> {
    async fn first_sights(&mut self, receipts: &[Receipt]) -> Result<Vec<Sight>, StoreError> {
        self.inner.first_sights(receipts).await
    }

    async fn check_retries(&mut self, marks: &[RetryMark]) -> Result<Vec<RetryCheck>, StoreError> {
        self.inner.check_retries(marks).await
    }

    async fn failed_attempts(&mut self, keys: &[FailureKey]) -> Result<Vec<u32>, StoreError> {
        self.inner.failed_attempts(keys).await
    }

    async fn load_products(&mut self, footprint: &Footprint) -> Result<Vec<Product>, StoreError> {
        if footprint.skus.iter().any(|sku| sku.as_str() == CURSED) {
            self.die_if(Fault::DiesLoading);
            assert!(self.fault != Fault::LanePanics, "a lane panics");
            let error = match self.fault {
                Fault::FailsTwice => Some(StoreError::Failed("the shelf is stuck".into())),
                Fault::UnavailableTwice => Some(StoreError::Unavailable("cut off".into())),
                _ => None,
            };
            if let Some(error) = error.filter(|_| self.failed.fetch_add(1, Ordering::SeqCst) < 2) {
                return Err(error);
            }
        }
        self.inner.load_products(footprint).await
    }

    async fn learn_waiting_lines(&mut self, product: &mut Product) -> Result<(), StoreError> {
        if product.sku().as_str() == CURSED {
            assert!(self.fault != Fault::Panics, "the lamp is cursed");
            if self.fault == Fault::Hangs {
                std::future::pending::<()>().await;
            }
        }
        self.inner.learn_waiting_lines(product).await
    }

    async fn learn_newest_lines(
        &mut self,
        product: &mut Product,
        batch: &Reference,
        units: u32,
    ) -> Result<(), StoreError> {
        self.inner.learn_newest_lines(product, batch, units).await
    }

    async fn commit(self: Box<Self>, work: Work) -> Result<(), StoreError> {
        self.die_if(Fault::DiesBeforeCommit);
        self.inner.commit(work).await
    }

    async fn rollback(self: Box<Self>) {
        self.inner.rollback().await;
    }
}

#[async_trait]
impl Queues for Faulty<RabbitQueues> {
    async fn subscribe(
        &self,
        queue: QueueName,
        stage: Stage,
        pace: Pace,
    ) -> Result<Box<dyn Subscription>, BrokerError> {
        let inner = self.inner.subscribe(queue, stage, pace).await?;
        Ok(Box::new(Faulty::around(inner, self.fault)))
    }
}

#[async_trait]
impl Subscription for Faulty<Box<dyn Subscription>> {
    async fn next(&mut self) -> Result<Delivery, BrokerError> {
        self.inner.next().await
    }

    fn settler(&self) -> Arc<dyn Settler> {
        Arc::new(Faulty::around(self.inner.settler(), self.fault))
    }

    async fn close(self: Box<Self>) {
        self.inner.close().await;
    }
}

#[async_trait]
impl Settler for Faulty<Arc<dyn Settler>> {
    async fn settle(&self, tags: &[u64]) {
        self.die_if(Fault::DiesBeforeSettling);
        self.inner.settle(tags).await;
    }

    fn is_over(&self) -> bool {
        self.inner.is_over()
    }
}

#[async_trait]
impl Outbox for Faulty<PgOutbox> {
    async fn lead(&self) -> Result<Option<Box<dyn Lead>>, StoreError> {
        let inner = self.inner.lead().await?;
        Ok(inner.map(|inner| Box::new(Faulty::around(inner, self.fault)) as Box<dyn Lead>))
    }

    async fn woken(&self) {
        self.inner.woken().await;
    }
}

#[async_trait]
impl Lead for Faulty<Box<dyn Lead>> {
    async fn look(&mut self) -> Result<Look, StoreError> {
        self.inner.look().await
    }

    async fn unpublished(&mut self, at_most: u32, except: &[String]) -> Result<Vec<OutboxRow>, StoreError> {
        self.inner.unpublished(at_most, except).await
    }

    async fn remove(&mut self, ids: &[i64], unroutable: i64) -> Result<(), StoreError> {
        self.inner.remove(ids, unroutable).await
    }

    async fn set_aside(&mut self, id: i64, reason: &str) -> Result<(), StoreError> {
        self.inner.set_aside(id, reason).await
    }

    async fn hold_retries(&mut self, retries: &[&DueRetry], reason: &str) -> Result<(), StoreError> {
        self.inner.hold_retries(retries, reason).await
    }

    async fn refuse_retry(&mut self, retry: &DueRetry, reason: &str) -> Result<(), StoreError> {
        self.inner.refuse_retry(retry, reason).await
    }

    async fn due_retries(&mut self, at_most: u32) -> Result<Vec<DueRetry>, StoreError> {
        self.inner.due_retries(at_most).await
    }

    async fn retries_published(&mut self, retries: &[&DueRetry]) -> Result<(), StoreError> {
        self.die_if(Fault::DiesBeforeNotingRetries);
        self.inner.retries_published(retries).await
    }

    async fn sweep(&mut self, retention: Retention) -> Result<bool, StoreError> {
        self.inner.sweep(retention).await
    }

    async fn release(self: Box<Self>) {
        self.inner.release().await;
    }
}

/// Not a test, but the worker process of the stories.
#[tokio::test]
#[ignore = "the stories start it"]
async fn a_worker_with_a_fault() {
    let name = std::env::var(FAULT).expect("a story starts it with a fault");
    let fault = FAULTS.into_iter().find(|fault| format!("{fault:?}") == name).unwrap();
    let variable = |name: &str| std::env::var(name).unwrap();
    let access = Access::new(&variable("DATABASE_URL"), 10, Duration::from_secs(5)).unwrap();
    let broker = Broker::new(&amqp_url(), &variable("ALLOCATION__NAMESPACE")).unwrap();
    let commits = Arc::<Commits>::default();
    let store = Faulty::around(PgStore::new(access.pool(), &access, commits.clone()), fault);
    let retry = RetryPolicy {
        max_attempts: 3,
        initial_interval: Duration::from_millis(100),
        multiplier: 1.0,
        ..RetryPolicy::default()
    };
    let policy = Policy { handler_timeout: Duration::from_millis(300), retry, host: "cursed".into() };
    let (database, broker_outage) =
        (Arc::new(Outage::of("the database")), Arc::new(Outage::of("the broker")));
    let worker = |queue| Worker {
        queue,
        stage: Stage::Work,
        limits: LIMITS,
        queues: Arc::new(Faulty::around(RabbitQueues::new(broker.clone(), 100), fault)),
        bus: MessageBus::new(Arc::new(store.clone()), Arc::new(MemoryNotices::default()), policy.clone()),
        lanes: 2,
        max_batch: 100,
        hold: Duration::from_mins(1),
        finish_within: Duration::from_secs(10),
        vitals: Vitals::default(),
        database: database.clone(),
        mail: None,
        broker: broker_outage.clone(),
    };
    let relay = Relay {
        outbox: Arc::new(Faulty::around(PgOutbox::new(access, commits), fault)),
        publisher: Arc::new(EventPublisher::new(broker.clone())),
        window: 100,
        retention: Retention { inbox: Duration::from_hours(1), failures: Duration::from_hours(1) },
        database: database.clone(),
        broker: broker_outage.clone(),
    };
    let forever = CancellationToken::new();
    let (orders, stock) = (worker(QueueName::Orders), worker(QueueName::Stock));
    tokio::join!(orders.run(&forever), stock.run(&forever), relay.run(&forever));
}

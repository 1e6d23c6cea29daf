//! Processes that die, fail or hang at a chosen place. They are this test binary itself, started again as a worker
//! whose ports are wrapped: the program has no hook that could be left on by mistake.

use std::{
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use allocation::{
    adapters::{
        memory::{MemoryNotices, MemoryStore},
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
        decode::Limits,
        delays::RetryPolicy,
        message_bus::{Fate, MessageBus, Policy},
        outage::Outage,
        relay::Relay,
    },
};
use async_trait::async_trait;
use serde_json::json;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::harness::{World, allocate, amqp_url, bus, command, create_batch, wait_for, wait_until};

/// The SKU whose commands meet the fault.
const CURSED: &str = "CURSED-LAMP";
/// Where a worker process finds out that it is one, and what is wrong with it.
const FAULT: &str = "WORKER_WITH_FAULT";

/// What is wrong with a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It dies when it loads a cursed product.
    DiesLoading,
    /// It cannot load a cursed product the first two times.
    FailsTwice,
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

const FAULTS: [Fault; 9] = [
    Fault::DiesLoading,
    Fault::FailsTwice,
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
struct Faulty<T> {
    inner: T,
    fault: Fault,
    /// Units of work, if it is a store.
    begun: Arc<AtomicU32>,
    failed: Arc<AtomicU32>,
}

impl<T> Faulty<T> {
    fn around(inner: T, fault: Fault) -> Self {
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
            if self.fault == Fault::FailsTwice && self.failed.fetch_add(1, Ordering::SeqCst) < 2 {
                return Err(StoreError::Failed("the shelf is stuck".into()));
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

/// No story, but the worker process of the stories below.
#[tokio::test]
async fn a_worker_with_a_fault() {
    let Ok(name) = std::env::var(FAULT) else { return };
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
        limits: Limits { body: 262_144, headers: 65_536 },
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

/// Lets it publish and acknowledge what it has done, then ends it; what it still holds may be a repeat.
async fn ends(world: &World, worker: Child) {
    wait_until("all is published and acknowledged", Duration::from_secs(10), async || {
        world.count("select count(*) from outbox").await == 0
            && world.ready("orders").await == 0
            && world.ready("stock").await == 0
    })
    .await;
    world.expect_repeats();
    drop(worker);
}

fn start(world: &World, fault: Fault) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["crashes::a_worker_with_a_fault", "--exact", "--nocapture"])
        .env(FAULT, format!("{fault:?}"))
        .env("DATABASE_URL", world.database_url())
        .env("ALLOCATION__NAMESPACE", &world.namespace)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Waits until a worker has died of its fault.
async fn dies(mut worker: Child) {
    let status = tokio::time::timeout(Duration::from_secs(20), worker.wait()).await.unwrap().unwrap();
    assert!(!status.success(), "it died of its fault");
}

async fn curse(world: &World) {
    world.sender.send(&create_batch("good", "GOOD-LAMP", 1000)).await;
    world.sender.send(&create_batch("cursed", CURSED, 1000)).await;
    let healthy = world.worker();
    world.wait_handled(2).await;
    healthy.terminate().await;
}

/// The message that kills its worker, among fifty that do not.
#[tokio::test]
async fn a_message_that_kills_its_worker_is_dead_in_the_end_and_its_neighbours_are_done() {
    let world = World::new("crash loop").await;
    curse(&world).await;
    let mut commands: Vec<_> = (0..50).map(|i| allocate(&format!("o{i}"), "GOOD-LAMP", 1)).collect();
    commands.insert(25, allocate("deadly", CURSED, 1));
    world.sender.send_all(&commands).await;
    // The first one is not counted; of the next four the last two find it alone.
    for _ in 0..5 {
        dies(start(&world, Fault::DiesLoading)).await;
    }
    let survivor = start(&world, Fault::DiesLoading);
    world.wait_handled(52).await;
    wait_for("the culprit is dead", Duration::from_secs(10), &1, async || {
        world
            .count("select count(*) from failed_messages where status = 'dead' and reason = 'crash_loop'")
            .await
    })
    .await;
    assert_eq!(world.count("select count(*) from failed_messages").await, 1, "nobody else is blamed");
    assert_eq!(world.count("select count(*) from message_starts").await, 0, "every start has its end");
    ends(&world, survivor).await;
    world.expect_dead(1);
    world.close().await;
}

#[tokio::test]
async fn a_handler_that_fails_twice_and_then_works_leaves_two_attempts_and_one_effect() {
    let world = World::new("fails twice").await;
    curse(&world).await;
    world.sender.send(&allocate("o1", CURSED, 1)).await;
    let worker = start(&world, Fault::FailsTwice);
    world.wait_handled(3).await;
    wait_for("it is resolved", Duration::from_secs(10), &1, async || {
        world.count("select count(*) from failed_messages where status = 'resolved' and attempts = 2").await
    })
    .await;
    assert_eq!(world.count("select count(*) from failed_attempts").await, 2);
    assert_eq!(world.count("select count(*) from order_lines where orderid = 'o1'").await, 1);
    ends(&world, worker).await;
    world.close().await;
}

/// A cursed line must wait, so that the handler of the next batch meets the fault.
async fn handler_meets(fault: Fault, error: &'static str) {
    let world = World::new(error).await;
    curse(&world).await;
    let healthy = world.worker();
    world.sender.send(&allocate("large", CURSED, 5000)).await;
    world.wait_handled(3).await;
    healthy.terminate().await;
    let mut worker = start(&world, fault);
    world.sender.send(&create_batch("more", CURSED, 5000)).await;
    world
        .sender
        .send_all(&(0..20).map(|i| create_batch(&format!("b{i}"), "GOOD-LAMP", 1)).collect::<Vec<_>>())
        .await;
    world.wait_handled(23).await;
    wait_for("it is dead after three attempts", Duration::from_secs(10), &3, async || {
        world
            .count(
                "select coalesce(max(attempts), 0)::bigint from failed_messages where reason = 'attempts_exhausted'",
            )
            .await
    })
    .await;
    let told: String =
        sqlx::query_scalar("select error from failed_messages").fetch_one(&world.pool).await.unwrap();
    assert!(told.contains(error), "{told}");
    assert!(worker.try_wait().unwrap().is_none(), "the process lives");
    ends(&world, worker).await;
    world.expect_dead(1);
    world.close().await;
}

/// The others are not handled one by one over it.
#[tokio::test]
async fn what_breaks_a_large_unit_of_work_is_looked_for_in_smaller_ones() {
    let store = Faulty::around(MemoryStore::default(), Fault::FailsTwice);
    let skus = (0..500).map(|i| if i == 400 { CURSED } else { "GOOD-LAMP" });
    let batches = skus.enumerate().map(|(i, sku)| create_batch(&format!("b{i}"), sku, 1));
    let mut commands: Vec<_> =
        batches.map(|batch| command(&batch.message_id, batch.kind, &batch.body)).collect();
    commands[100] = command("unreadable", "create_batch", &json!([]));
    let fates = bus(Arc::new(store.clone())).handle(QueueName::Stock, &commands).await.unwrap();
    let other: Vec<_> = (0..500).filter(|&i| fates[i] != Fate::Handled).collect();
    assert_eq!(other, [100], "the third time the cursed one goes well");
    let begun = store.begun.load(Ordering::SeqCst);
    assert!(begun < 60, "{begun} units of work for 500 commands");
}

#[tokio::test]
async fn a_panic_is_an_attempt_and_no_crash() {
    handler_meets(Fault::Panics, "panicked: the lamp is cursed").await;
}

#[tokio::test]
async fn a_handler_that_never_ends_is_an_attempt() {
    handler_meets(Fault::Hangs, "took longer than 300ms").await;
}

/// A panic outside of every handler takes the subscription with it, not the process, and is found like a crash.
#[tokio::test]
async fn a_lane_that_panics_is_replaced_and_its_culprit_found() {
    let world = World::new("lane panics").await;
    curse(&world).await;
    let mut worker = start(&world, Fault::LanePanics);
    world.sender.send(&allocate("deadly", CURSED, 1)).await;
    world
        .sender
        .send_all(&(0..20).map(|i| allocate(&format!("o{i}"), "GOOD-LAMP", 1)).collect::<Vec<_>>())
        .await;
    world.wait_handled(22).await;
    wait_for("the culprit is dead", Duration::from_secs(20), &1, async || {
        world.count("select count(*) from failed_messages where reason = 'crash_loop'").await
    })
    .await;
    assert!(worker.try_wait().unwrap().is_none(), "the process lives");
    ends(&world, worker).await;
    world.expect_dead(1);
    world.close().await;
}

/// The good path and the failing one, each cut off around its commit: one effect, one row, one attempt.
#[tokio::test]
async fn dying_around_the_commit_makes_no_second_effect_and_no_second_attempt() {
    let world = World::new("around the commit").await;
    curse(&world).await;
    let commands = [allocate("o1", "GOOD-LAMP", 1), allocate("o2", "NO-SUCH-LAMP", 1)];
    world.sender.send_all(&commands).await;
    dies(start(&world, Fault::DiesBeforeCommit)).await;
    assert_eq!(world.handled().await, 2, "nothing was kept");
    assert_eq!(world.count("select count(*) from failed_messages").await, 0);
    dies(start(&world, Fault::DiesBeforeSettling)).await;
    let attempts = world.count("select coalesce(sum(attempts), 0)::bigint from failed_messages").await;
    let survivor = start(&world, Fault::None);
    wait_for("the bad one is dead after its attempts", Duration::from_secs(20), &1, async || {
        world.count("select count(*) from failed_messages where status = 'dead' and attempts = 3").await
    })
    .await;
    assert!(attempts <= 1, "{attempts} attempts of one delivery");
    assert_eq!(world.count("select count(*) from failed_attempts").await, 3);
    assert_eq!(world.count("select count(*) from order_lines").await, 1);
    ends(&world, survivor).await;
    world.expect_dead(1);
    world.close().await;
}

/// Published back and not noted: it is published again, and the second copy counts for nothing.
#[tokio::test]
async fn a_retry_that_is_published_twice_is_one_attempt() {
    let world = World::new("published twice").await;
    world.sender.send(&allocate("o1", "NO-SUCH-LAMP", 1)).await;
    for _ in 0..2 {
        dies(start(&world, Fault::DiesBeforeNotingRetries)).await;
    }
    let survivor = start(&world, Fault::None);
    wait_for("it is dead after its attempts", Duration::from_secs(20), &1, async || {
        world.count("select count(*) from failed_messages where status = 'dead' and attempts = 3").await
    })
    .await;
    assert_eq!(world.count("select count(*) from failed_attempts").await, 3);
    ends(&world, survivor).await;
    world.expect_dead(1);
    world.close().await;
}

//! Handlers that panic, hang or take long in a dry run of the real store.

use std::{sync::Arc, time::Duration};

use allocation::{
    adapters::postgres::PgDryRuns,
    ports::{
        dry_run::{DryRun, DryRuns, RetriableMessages},
        error::StoreError,
        queue::QueueName,
        store::{LockMode, Store, Tx},
    },
    service::{
        policy::FailurePolicy,
        trial::{Trial, TrialOptions, Verdict},
    },
};
use async_trait::async_trait;

use crate::{
    faults::{
        CRASHING_SKU,
        faulty::{Fault, FaultyPort},
    },
    harness::{SOON, allocate, create_batch, policy, wait_for},
};

use super::world::World;

/// Dry runs with a fault.
struct FaultyDryRuns(PgDryRuns, Fault);

struct FaultyDryRun(Box<dyn DryRun>, Fault);

/// The store of a dry run, as a type that decorators accept.
struct PartStore(Arc<dyn Store>);

#[async_trait]
impl DryRuns for FaultyDryRuns {
    async fn begin(&self) -> Result<Box<dyn DryRun>, StoreError> {
        Ok(Box::new(FaultyDryRun(self.0.begin().await?, self.1)))
    }
}

#[async_trait]
impl DryRun for FaultyDryRun {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(FaultyPort::around(PartStore(self.0.store()), self.1))
    }

    async fn failed_messages(&mut self, ids: &[i64]) -> Result<RetriableMessages, StoreError> {
        self.0.failed_messages(ids).await
    }

    async fn rollback(self: Box<Self>) {
        self.0.rollback().await;
    }
}

#[async_trait]
impl Store for PartStore {
    async fn begin_with(&self, queue: QueueName, locks: LockMode) -> Result<Box<dyn Tx>, StoreError> {
        self.0.begin_with(queue, locks).await
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.0.probe().await
    }

    async fn unfinished_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<Vec<u32>, StoreError> {
        self.0.unfinished_starts(queue, ids).await
    }

    async fn record_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<(), StoreError> {
        self.0.record_starts(queue, ids).await
    }

    async fn revert_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<(), StoreError> {
        self.0.revert_starts(queue, ids).await
    }
}

/// Two messages; the handler of the first one meets the fault.
async fn with_fault(fault: Fault, handler_timeout: Duration) -> (World, Trial, [i64; 2]) {
    let world = World::new().await;
    world.handle(&create_batch("crashing-1", CRASHING_SKU, 1)).await;
    world.handle(&allocate("waits", CRASHING_SKU, 3)).await;
    let faulty = world.dead_command(&create_batch("crashing-2", CRASHING_SKU, 5), "attempts_exhausted").await;
    let fine = world.dead_command(&create_batch("lamp-2", "LAMP", 5), "attempts_exhausted").await;
    let runs = FaultyDryRuns(PgDryRuns::new(world.db.pool.clone(), &world.db.config()), fault);
    let policy = FailurePolicy { handler_timeout, ..policy() };
    let trial = Trial { dry_runs: Arc::new(runs), policy, ..world.trial() };
    (world, trial, [faulty, fine])
}

#[tokio::test]
async fn a_handler_that_panics_is_reported() {
    let (world, trial, ids) = with_fault(Fault::Panics, Duration::from_secs(30)).await;
    let reports = world.tried_by(&trial, &ids, TrialOptions::default()).await;
    assert_eq!((reports[0].would, reports[0].next), (Verdict::Fail, Some("retrying")));
    assert!(reports[0].error.as_deref().unwrap().contains("the handler panicked"), "{:?}", reports[0].error);
    assert_eq!(reports[1].would, Verdict::Succeed);
}

#[tokio::test]
async fn a_panic_outside_of_a_handler_changes_nothing() {
    let (world, _, ids) = with_fault(Fault::None, Duration::from_secs(30)).await;
    let line = world.dead_command(&allocate("o", CRASHING_SKU, 1), "rejected").await;
    let before = crate::harness::dump(&world.db.pool).await;
    let runs =
        FaultyDryRuns(PgDryRuns::new(world.db.pool.clone(), &world.db.config()), Fault::PartitionPanics);
    let trial = Trial { dry_runs: Arc::new(runs), ..world.trial() };
    let all = [ids[0], ids[1], line];
    let panicked =
        tokio::spawn(async move { trial.run(&all, TrialOptions::default()).await.map(drop) }).await;
    assert!(panicked.unwrap_err().is_panic());
    assert_eq!(crate::harness::dump(&world.db.pool).await, before);
    let other = allocate("other", CRASHING_SKU, 1);
    world.handle(&other).await;
}

#[tokio::test]
async fn a_handler_that_exceeds_its_timeout_is_reported() {
    let (world, trial, ids) = with_fault(Fault::Hangs, Duration::from_millis(200)).await;
    let reports = world.tried_by(&trial, &ids, TrialOptions::default()).await;
    assert_eq!((reports[0].would, reports[0].next), (Verdict::Fail, Some("retrying")));
    assert!(reports[0].error.as_deref().unwrap().contains("200ms (worker.handler_timeout)"));
    assert_eq!(reports[1].would, Verdict::Succeed);
}

/// A worker would give the handler more time.
#[tokio::test]
async fn a_handler_that_takes_longer_than_a_dry_run_may_take_is_reported_as_busy() {
    let (world, trial, ids) = with_fault(Fault::Hangs, Duration::from_secs(30)).await;
    let reports = world.tried_by(&trial, &ids, TrialOptions::default()).await;
    assert_eq!((reports[0].would, reports[0].next), (Verdict::Busy, None));
    assert!(reports[0].error.as_deref().unwrap().contains("longer than a dry run may take (1s)"));
    assert_eq!(reports[1].would, Verdict::Succeed);
}

#[tokio::test]
async fn a_trial_ends_after_five_seconds_and_releases_its_locks() {
    let world = World::new().await;
    world
        .db
        .execute(
            "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(60); return new; end $$;
             create trigger slow before insert on order_lines for each row execute function slow()",
        )
        .await;
    let slow = world.dead_command(&allocate("o", "LAMP", 1), "rejected").await;
    let begin = tokio::time::Instant::now();
    let reports = world.tried(&[slow], TrialOptions::default()).await;
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    assert_eq!(reports[0].would, Verdict::Busy);
    assert!(reports[0].error.as_deref().unwrap().contains("ends after 5s"), "{:?}", reports[0].error);
    let sleeping = "select count(*) from pg_stat_activity
                    where datname = current_database() and wait_event = 'PgSleep'";
    wait_for("the statement ends", SOON, &0, async || world.db.count(sleeping).await).await;
    world.db.execute("drop trigger slow on order_lines").await;
    world.handle(&allocate("other", "LAMP", 1)).await;
}

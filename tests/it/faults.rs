//! Processes that die, fail or hang at a chosen place. They are this test binary itself, started again as a worker
//! whose ports are wrapped: the program has no hook that could be left on by mistake.

pub(crate) mod faulty;
mod faulty_store;

use std::{
    process::Stdio,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use allocation::{adapters::memory::MemoryStore, ports::queue::QueueName, service::outcome::CommandOutcome};
use serde_json::json;
use tokio::process::{Child, Command};

use crate::harness::{
    HandleAll as _, TestSystem, allocate, bus, command, create_batch, wait_for, wait_until,
};

use faulty::{Fault, FaultyPort};

/// The SKU whose commands meet the fault.
pub(crate) const CRASHING_SKU: &str = "CRASHING_SKU-LAMP";
/// Where a worker process finds out that it is one, and what is wrong with it.
const FAULT: &str = "WORKER_WITH_FAULT";

/// Lets it publish and acknowledge what it has done, then ends it; what it still holds may be a repeat.
async fn up(system: &TestSystem, worker: Child) {
    wait_until("all is published and acknowledged", Duration::from_secs(10), async || {
        system.count("select count(*) from outbox").await == 0
            && system.ready("orders").await == 0
            && system.ready("stock").await == 0
    })
    .await;
    system.expect_redeliveries();
    drop(worker);
}

fn start(system: &TestSystem, fault: Fault) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["faults::faulty::a_worker_with_a_fault", "--exact", "--ignored", "--nocapture"])
        .env(FAULT, format!("{fault:?}"))
        .env("DATABASE_URL", system.database_url())
        .env("ALLOCATION__NAMESPACE", &system.namespace)
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

async fn seed(system: &TestSystem) {
    system.sender.send(&create_batch("good", "GOOD-LAMP", 1000)).await;
    system.sender.send(&create_batch("crashing", CRASHING_SKU, 1000)).await;
    let healthy = system.worker();
    system.wait_handled(2).await;
    healthy.terminate().await;
}

/// A message that crashes its worker, among fifty others.
#[tokio::test]
async fn a_message_that_crashes_its_worker_is_dead_lettered_and_the_others_are_handled() {
    let system = TestSystem::new("crash loop").await;
    seed(&system).await;
    let mut commands: Vec<_> = (0..50).map(|i| allocate(&format!("o{i}"), "GOOD-LAMP", 1)).collect();
    commands.insert(25, allocate("deadly", CRASHING_SKU, 1));
    system.sender.send_all(&commands).await;
    // The first crash is not counted; in the last two of the next four the message is handled alone.
    for _ in 0..5 {
        dies(start(&system, Fault::DiesLoading)).await;
    }
    let survivor = start(&system, Fault::DiesLoading);
    system.wait_handled(52).await;
    wait_for("the message is dead", Duration::from_secs(10), &1, async || {
        system
            .count("select count(*) from failed_messages where status = 'dead' and reason = 'crash_loop'")
            .await
    })
    .await;
    assert_eq!(system.count("select count(*) from failed_messages").await, 1, "no other message has failed");
    assert_eq!(system.count("select count(*) from message_starts").await, 0, "every start has its end");
    up(&system, survivor).await;
    system.expect_dead(1);
    system.close().await;
}

#[tokio::test]
async fn a_handler_that_fails_twice_and_then_works_leaves_two_attempts_and_one_effect() {
    let system = TestSystem::new("fails twice").await;
    seed(&system).await;
    system.sender.send(&allocate("o1", CRASHING_SKU, 1)).await;
    let worker = start(&system, Fault::FailsTwice);
    system.wait_handled(3).await;
    wait_for("it is resolved", Duration::from_secs(10), &1, async || {
        system.count("select count(*) from failed_messages where status = 'resolved' and attempts = 2").await
    })
    .await;
    assert_eq!(system.count("select count(*) from failed_attempts").await, 2);
    assert_eq!(system.count("select count(*) from order_lines where orderid = 'o1'").await, 1);
    up(&system, worker).await;
    system.close().await;
}

/// A line of the crashing product must wait, so that the handler of the next batch meets the fault.
async fn handler_meets(fault: Fault, error: &'static str) {
    let system = TestSystem::new(error).await;
    seed(&system).await;
    let healthy = system.worker();
    system.sender.send(&allocate("large", CRASHING_SKU, 5000)).await;
    system.wait_handled(3).await;
    healthy.terminate().await;
    let mut worker = start(&system, fault);
    system.sender.send(&create_batch("more", CRASHING_SKU, 5000)).await;
    system
        .sender
        .send_all(&(0..20).map(|i| create_batch(&format!("b{i}"), "GOOD-LAMP", 1)).collect::<Vec<_>>())
        .await;
    system.wait_handled(23).await;
    wait_for("it is dead after three attempts", Duration::from_secs(10), &3, async || {
        system
            .count(
                "select coalesce(max(attempts), 0)::bigint from failed_messages where reason = 'attempts_exhausted'",
            )
            .await
    })
    .await;
    let recorded: String =
        sqlx::query_scalar("select error from failed_messages").fetch_one(&system.pool).await.unwrap();
    assert!(recorded.contains(error), "{recorded}");
    assert!(worker.try_wait().unwrap().is_none(), "the process lives");
    up(&system, worker).await;
    system.expect_dead(1);
    system.close().await;
}

/// The others are not handled one by one over it.
#[tokio::test]
async fn what_breaks_a_large_unit_of_work_is_looked_for_in_smaller_ones() {
    let store = FaultyPort::around(MemoryStore::default(), Fault::FailsTwice);
    let skus = (0..500).map(|i| if i == 400 { CRASHING_SKU } else { "GOOD-LAMP" });
    let batches = skus.enumerate().map(|(i, sku)| create_batch(&format!("b{i}"), sku, 1));
    let mut commands: Vec<_> =
        batches.map(|batch| command(&batch.message_id, batch.kind, &batch.body)).collect();
    commands[100] = command("unreadable", "create_batch", &json!([]));
    let outcomes = bus(Arc::new(store.clone())).handle_all(QueueName::Stock, &mut commands).await.unwrap();
    let other: Vec<_> = (0..500).filter(|&i| !matches!(outcomes[i], CommandOutcome::Handled)).collect();
    assert_eq!(other, [100], "the third load of the crashing product succeeds");
    let begun = store.begun.load(Ordering::SeqCst);
    assert!(begun < 60, "{begun} units of work for 500 commands");
}

/// The store is available again at once, so that an attempt could be recorded.
#[tokio::test]
async fn an_outage_in_the_middle_of_a_unit_of_work_is_no_attempt() {
    let memory = MemoryStore::default();
    let bus = bus(Arc::new(FaultyPort::around(memory.clone(), Fault::UnavailableTwice)));
    let batch = create_batch("b", CRASHING_SKU, 1);
    let mut commands = [command(&batch.message_id, batch.kind, &batch.body)];
    for _ in 0..2 {
        let outcome = bus.handle_all(QueueName::Stock, &mut commands).await;
        assert!(outcome.is_err(), "{outcome:?}");
        assert_eq!(memory.state().await.failures, []);
    }
    let outcomes = bus.handle_all(QueueName::Stock, &mut commands).await.unwrap();
    assert!(matches!(outcomes[..], [CommandOutcome::Handled]), "{outcomes:?}");
}

#[tokio::test]
async fn a_panic_is_an_attempt_and_no_crash() {
    handler_meets(Fault::Panics, "panicked: the handler panics").await;
}

#[tokio::test]
async fn a_handler_that_never_ends_is_an_attempt() {
    handler_meets(Fault::Hangs, "took longer than 300ms").await;
}

/// A panic outside of every handler closes the subscription, not the process, and counts as a crash.
#[tokio::test]
async fn a_panic_outside_of_a_handler_restarts_the_consumer_and_its_message_is_isolated() {
    let system = TestSystem::new("partition panics").await;
    seed(&system).await;
    let mut worker = start(&system, Fault::PartitionPanics);
    system.sender.send(&allocate("deadly", CRASHING_SKU, 1)).await;
    system
        .sender
        .send_all(&(0..20).map(|i| allocate(&format!("o{i}"), "GOOD-LAMP", 1)).collect::<Vec<_>>())
        .await;
    system.wait_handled(22).await;
    wait_for("the message is dead", Duration::from_secs(20), &1, async || {
        system.count("select count(*) from failed_messages where reason = 'crash_loop'").await
    })
    .await;
    assert!(worker.try_wait().unwrap().is_none(), "the process lives");
    up(&system, worker).await;
    system.expect_dead(1);
    system.close().await;
}

/// The good path and the failing one, each cut off around its commit: one effect, one row, one attempt.
#[tokio::test]
async fn dying_around_the_commit_makes_no_second_effect_and_no_second_attempt() {
    let system = TestSystem::new("around the commit").await;
    seed(&system).await;
    let commands = [allocate("o1", "GOOD-LAMP", 1), allocate("o2", "NO-SUCH-LAMP", 1)];
    system.sender.send_all(&commands).await;
    dies(start(&system, Fault::DiesBeforeCommit)).await;
    assert_eq!(system.handled().await, 2, "nothing was kept");
    assert_eq!(system.count("select count(*) from failed_messages").await, 0);
    dies(start(&system, Fault::DiesBeforeAck)).await;
    let attempts = system.count("select coalesce(sum(attempts), 0)::bigint from failed_messages").await;
    let survivor = start(&system, Fault::None);
    wait_for("the bad one is dead after its attempts", Duration::from_secs(20), &1, async || {
        system.count("select count(*) from failed_messages where status = 'dead' and attempts = 3").await
    })
    .await;
    assert!(attempts <= 1, "{attempts} attempts of one delivery");
    assert_eq!(system.count("select count(*) from failed_attempts").await, 3);
    assert_eq!(system.count("select count(*) from order_lines").await, 1);
    up(&system, survivor).await;
    system.expect_dead(1);
    system.close().await;
}

/// Published back and not noted: it is published again, and the second copy counts for nothing.
#[tokio::test]
async fn a_retry_that_is_published_twice_is_one_attempt() {
    let system = TestSystem::new("published twice").await;
    system.sender.send(&allocate("o1", "NO-SUCH-LAMP", 1)).await;
    for _ in 0..2 {
        dies(start(&system, Fault::DiesBeforeMarkingRetries)).await;
    }
    let survivor = start(&system, Fault::None);
    wait_for("it is dead after its attempts", Duration::from_secs(20), &1, async || {
        system.count("select count(*) from failed_messages where status = 'dead' and attempts = 3").await
    })
    .await;
    assert_eq!(system.count("select count(*) from failed_attempts").await, 3);
    up(&system, survivor).await;
    system.expect_dead(1);
    system.close().await;
}

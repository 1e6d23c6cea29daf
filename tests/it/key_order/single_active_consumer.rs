//! With one active consumer per queue, several processes keep the order of the queue, also when the active one is killed.

use std::time::{Duration, Instant};

use lapin::options::QueueDeleteOptions;

use crate::harness::{
    Command, DRAINS_WITHIN, Running, SOON, TestSystem, allocate, create_batch, deallocate, wait_until,
};

/// Slows down every unit of work, so that a kill interrupts one.
const SLOW_INBOX: &str = "create function slow_down() returns trigger language plpgsql as $$
     begin perform pg_sleep(0.02); return null; end $$;
     create trigger slow after insert on inbox for each statement execute function slow_down()";
const SINGLE: (&str, &str) = ("ALLOCATION__QUEUES__SINGLE_ACTIVE_CONSUMER", "true");

/// A system whose queues of commands have a single active consumer.
async fn with_single_active_consumers(name: &str) -> TestSystem {
    let system = TestSystem::new(name).await;
    let differs = system.cli_with(&["topology"], &[SINGLE]).await.exits(1).text();
    assert!(differs.contains("x-single-active-consumer"), "the difference is reported: {differs}");
    declare_again(&system, &[SINGLE]).await;
    system
}

async fn declare_again(system: &TestSystem, environment: &[(&str, &str)]) {
    for queue in ["orders", "stock"] {
        let queue = format!("{}.{queue}", system.namespace);
        let deleted = system.channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await;
        assert_eq!(deleted.unwrap(), 0, "no message is left");
    }
    system.cli_with(&["topology"], environment).await.exits(0);
}

fn worker(system: &TestSystem) -> Running {
    let small = [SINGLE, ("ALLOCATION__WORKER__MAX_BATCH", "20"), ("ALLOCATION__WORKER__PREFETCH", "100")];
    system.worker_with(&small)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_is_replaced_and_the_order_of_the_queue_is_kept() {
    let system =
        with_single_active_consumers("a_killed_worker_is_replaced_and_the_order_of_the_queue_is_kept").await;
    system.expect_redeliveries();
    let mut workers = vec![worker(&system)];
    let batches: Vec<_> =
        (0..4).map(|n| create_batch(&format!("b-{n}"), &format!("SKU-{n}"), 10_000)).collect();
    system.sender.send_all(&batches).await;
    system.wait_handled(batches.len()).await;
    workers.extend([worker(&system), worker(&system)]);
    for worker in &workers {
        let has_subscribed = async || worker.log().contains("consuming queue=\"orders\"");
        wait_until("the process has subscribed", SOON, has_subscribed).await;
    }
    system.execute(SLOW_INBOX).await;
    let commands: Vec<Command> = (0..1_000)
        .flat_map(|n| {
            let (orderid, sku) = (format!("o-{n}"), format!("SKU-{}", n % 4));
            [allocate(&orderid, &sku, 1), deallocate(&orderid, &sku)]
        })
        .collect();
    system.sender.send_all(&commands).await;
    // The consumer that has subscribed first is the active one.
    for _ in 0..2 {
        let before = system.handled().await;
        wait_until("commands are handled", DRAINS_WITHIN, async || system.handled().await > before + 100)
            .await;
        workers.remove(0).kill().await;
        let (killed, before) = (Instant::now(), system.handled().await);
        wait_until("another process continues", DRAINS_WITHIN, async || system.handled().await > before)
            .await;
        println!("replaced after {:.2?}", killed.elapsed());
        assert!(killed.elapsed() < Duration::from_secs(3), "{:?}", killed.elapsed());
    }
    assert!(system.handled().await < 4 + 2_000, "the kills interrupted the work");
    system.settled(4 + commands.len()).await;
    assert_eq!(
        system.count("select count(*) from order_lines").await,
        0,
        "lines of cancelled orders are left"
    );
    for worker in workers {
        assert!(worker.terminate().await.success());
    }
    // The broker does not let the last check read such a queue.
    declare_again(&system, &[]).await;
    system.close().await;
}

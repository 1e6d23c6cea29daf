//! Commands about one line take effect in the order of their queue, however the processes that handle them end.

use std::time::Duration;

use crate::harness::{
    Command, DRAINS_WITHIN, Random, Running, TestSystem, allocate, create_batch, deallocate, wait_for,
    wait_until,
};

const DEAD: &str = "select count(*) from failed_messages where status = 'dead'";
const STARTS: &str = "select count(*) from message_starts";
/// Each unit of work takes a little longer, so that something is always under way.
const SLOW_INBOX: &str = "create function wait_a_little() returns trigger language plpgsql as $$
     begin perform pg_sleep(0.05); return null; end $$;
     create trigger slow after insert on inbox for each statement execute function wait_a_little()";
/// No unit of work that has events can be committed; the rest of the database can be written.
const FULL_DISK: &str = "create function refuse() returns trigger language plpgsql as $$
     begin raise exception 'no space left on device' using errcode = '53100'; end $$;
     create trigger full_disk before insert on outbox for each statement execute function refuse()";
const SPACE_AGAIN: &str = "drop trigger full_disk on outbox; drop function refuse()";

async fn execute(system: &TestSystem, statements: &'static str) {
    sqlx::raw_sql(statements).execute(&system.pool).await.unwrap();
}

/// An order and its cancellation, many times.
fn pairs(count: u32) -> Vec<Command> {
    (0..count)
        .flat_map(|number| {
            let (orderid, sku) = (format!("o-{number}"), format!("SKU-{}", number % 4));
            [allocate(&orderid, &sku, 1), deallocate(&orderid, &sku)]
        })
        .collect()
}

/// A system with stock for all of them.
async fn with_stock(name: &str) -> TestSystem {
    let system = TestSystem::new(name).await;
    let worker = system.worker();
    let batches: Vec<_> =
        (0..4).map(|n| create_batch(&format!("b-{n}"), &format!("SKU-{n}"), 10_000)).collect();
    system.sender.send_all(&batches).await;
    system.wait_handled(4).await;
    worker.terminate().await;
    system
}

fn small_steps(system: &TestSystem, environment: &[(&str, &str)]) -> Running {
    let small = [("ALLOCATION__WORKER__MAX_BATCH", "20"), ("ALLOCATION__WORKER__PREFETCH", "200")];
    system.worker_with(&[&small[..], environment].concat())
}

/// All was handled, nothing is dead, and no line of an order that was cancelled is left.
async fn assert_all_cancelled(system: &TestSystem, commands: usize) {
    system.settled(4 + commands).await;
    assert_eq!(system.count("select count(*) from order_lines").await, 0, "cancelled orders are allocated");
    assert_eq!((system.count(DEAD).await, system.count(STARTS).await), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn orderly_restarts_keep_the_order() {
    let system = with_stock("orderly_restarts_keep_the_order").await;
    execute(&system, SLOW_INBOX).await;
    let (commands, mut random) = (pairs(400), Random::seeded(1));
    system.sender.send_all(&commands).await;
    for _ in 0..6 {
        let (worker, before) = (small_steps(&system, &[]), system.handled().await);
        let some_more = i64::from(20 + random.below(60));
        wait_until("work goes on", DRAINS_WITHIN, async || system.handled().await > before + some_more).await;
        assert!(worker.terminate().await.success());
    }
    assert!(system.handled().await < 4 + 800, "every restart came in the middle of work");
    let worker = small_steps(&system, &[]);
    assert_all_cancelled(&system, commands.len()).await;
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_handed_back_in_an_outage_keep_their_order_and_are_not_to_blame() {
    let system =
        with_stock("messages_that_are_handed_back_in_an_outage_keep_their_order_and_are_not_to_blame").await;
    execute(&system, FULL_DISK).await;
    let commands = pairs(100);
    system.sender.send_all(&commands).await;
    let worker = small_steps(&system, &[("ALLOCATION__WORKER__REQUEUE_AFTER", "1s")]);
    let handed_back = || worker.log().matches("returning messages to the queue").count();
    wait_until("messages are handed back", DRAINS_WITHIN, async || handed_back() >= 2).await;
    assert_eq!(system.count("select count(*) from failed_messages").await, 0);
    execute(&system, SPACE_AGAIN).await;
    assert_all_cancelled(&system, commands.len()).await;
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_in_an_outage_are_no_crashes() {
    let system = with_stock("restarts_in_an_outage_are_no_crashes").await;
    execute(&system, FULL_DISK).await;
    let commands = pairs(1);
    system.sender.send_all(&commands).await;
    for _ in 0..6 {
        let worker = small_steps(&system, &[]);
        let waits = async || worker.log().contains("database unavailable");
        wait_until("the outage is noticed", DRAINS_WITHIN, waits).await;
        assert!(worker.terminate().await.success());
        assert_eq!(system.count(STARTS).await, 0, "an orderly end is no crash");
    }
    execute(&system, SPACE_AGAIN).await;
    let worker = small_steps(&system, &[]);
    assert_all_cancelled(&system, commands.len()).await;
    system.close_after([worker]).await;
}

/// A unit of work that hangs is given up when the time to stop is over; that is no crash either.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_is_overdue_is_no_crash() {
    let system = with_stock("a_stop_that_is_overdue_is_no_crash").await;
    let mut locker = system.pool.begin().await.unwrap();
    sqlx::query("select from products where sku = 'SKU-0' for update").execute(&mut *locker).await.unwrap();
    system.sender.send(&allocate("o-1", "SKU-0", 1)).await;
    for _ in 0..3 {
        let worker = system.worker_with(&[("ALLOCATION__WORKER__SHUTDOWN_TIMEOUT", "1s")]);
        let held = async || system.ready("orders").await == 0 && worker.log().contains("queue=\"orders\"");
        wait_until("the message is delivered", DRAINS_WITHIN, held).await;
        assert!(worker.terminate().await.success());
        assert_eq!(system.count(STARTS).await, 0);
    }
    locker.rollback().await.unwrap();
    let worker = system.worker();
    system.settled(5).await;
    system.close_after([worker]).await;
}

/// A message that seems to have killed its worker is not handled before, or after, its neighbours.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_keeps_its_place() {
    let system = with_stock("a_suspect_keeps_its_place").await;
    system.expect_repeats();
    execute(
        &system,
        "create function hang() returns trigger language plpgsql as $$
         begin perform pg_sleep(60); return new; end $$;
         create trigger hangs before insert on inbox for each row when (new.message_id = 'first')
         execute function hang()",
    )
    .await;
    let hangs = "select count(*) from pg_stat_activity
                 where datname = current_database() and wait_event = 'PgSleep'";
    system.sender.send(&allocate("o-1", "SKU-0", 1).with_id("first")).await;
    for kills in 0..4 {
        if kills == 3 {
            system.sender.send(&deallocate("o-1", "SKU-0").with_id("second")).await;
        }
        let worker = system.worker();
        wait_for("it hangs", DRAINS_WITHIN, &1, async || system.count(hangs).await).await;
        wait_for("both are taken", DRAINS_WITHIN, &0, async || system.ready("orders").await).await;
        worker.kill().await;
        let ended = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                     where datname = current_database() and wait_event = 'PgSleep'";
        system.count(ended).await;
        wait_for("its session ends", DRAINS_WITHIN, &0, async || system.count(hangs).await).await;
    }
    assert_eq!(system.count("select coalesce(max(starts), 0)::bigint from message_starts").await, 3);
    execute(&system, "drop trigger hangs on inbox").await;
    let worker = system.worker();
    system.wait_drained(6).await;
    assert_eq!(system.count("select count(*) from order_lines").await, 0, "a cancelled order is allocated");
    assert_eq!(system.count(DEAD).await, 0);
    tokio::time::timeout(Duration::from_secs(10), system.close_after([worker])).await.unwrap();
}

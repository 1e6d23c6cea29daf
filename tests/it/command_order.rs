//! Commands about one line take effect in the order of their queue, through shutdowns, kills and outages of the workers.

use crate::harness::{
    Command, DRAINS_WITHIN, Random, Running, TestSystem, allocate, create_batch, deallocate, wait_for,
    wait_until,
};

const DEAD: &str = "select count(*) from failed_messages where status = 'dead'";
const STARTS: &str = "select count(*) from message_starts";
/// Slows down every unit of work, so that commands are always in progress.
const SLOW_INBOX: &str = "create function slow_down() returns trigger language plpgsql as $$
     begin perform pg_sleep(0.05); return null; end $$;
     create trigger slow after insert on inbox for each statement execute function slow_down()";
/// Units of work with events fail as if the disk were full; everything else can be written.
const FULL_DISK: &str = "create function refuse() returns trigger language plpgsql as $$
     begin raise exception 'no space left on device' using errcode = '53100'; end $$;
     create trigger full_disk before insert on outbox for each statement execute function refuse()";
const FREE_DISK: &str = "drop trigger full_disk on outbox; drop function refuse()";

async fn execute(system: &TestSystem, statements: &'static str) {
    sqlx::raw_sql(statements).execute(&system.pool).await.unwrap();
}

/// Orders, each followed by its cancellation.
fn cancelled_orders(count: u32) -> Vec<Command> {
    (0..count)
        .flat_map(|number| {
            let (orderid, sku) = (format!("o-{number}"), format!("SKU-{}", number % 4));
            [allocate(&orderid, &sku, 1), deallocate(&orderid, &sku)]
        })
        .collect()
}

/// A system with stock for all orders.
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

/// Starts a worker with small units of work and a small prefetch.
fn worker_with_small_units(system: &TestSystem, environment: &[(&str, &str)]) -> Running {
    let small = [("ALLOCATION__WORKER__MAX_BATCH", "20"), ("ALLOCATION__WORKER__PREFETCH", "200")];
    system.worker_with(&[&small[..], environment].concat())
}

/// Asserts that all commands were handled, no message is dead or has unfinished starts, and no line is left.
async fn assert_all_cancelled(system: &TestSystem, commands: usize) {
    system.settled(4 + commands).await;
    assert_eq!(
        system.count("select count(*) from order_lines").await,
        0,
        "lines of cancelled orders are left"
    );
    assert_eq!((system.count(DEAD).await, system.count(STARTS).await), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_keep_the_order_of_commands() {
    let system = with_stock("restarts_keep_the_order_of_commands").await;
    execute(&system, SLOW_INBOX).await;
    let (commands, mut random) = (cancelled_orders(400), Random::seeded(1));
    system.sender.send_all(&commands).await;
    for _ in 0..6 {
        let (worker, before) = (worker_with_small_units(&system, &[]), system.handled().await);
        let some_more = i64::from(20 + random.below(60));
        wait_until("commands are handled", DRAINS_WITHIN, async || {
            system.handled().await > before + some_more
        })
        .await;
        assert!(worker.terminate().await.success());
    }
    assert!(system.handled().await < 4 + 800, "every restart interrupted the work");
    let worker = worker_with_small_units(&system, &[]);
    assert_all_cancelled(&system, commands.len()).await;
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_requeued_in_an_outage_keep_their_order_and_have_no_starts() {
    let system = with_stock("messages_requeued_in_an_outage_keep_their_order_and_have_no_starts").await;
    execute(&system, FULL_DISK).await;
    let commands = cancelled_orders(100);
    system.sender.send_all(&commands).await;
    let worker = worker_with_small_units(&system, &[("ALLOCATION__WORKER__REQUEUE_AFTER", "1s")]);
    let requeues = || worker.log().matches("returning messages to the queue").count();
    wait_until("messages are requeued", DRAINS_WITHIN, async || requeues() >= 2).await;
    assert_eq!(system.count("select count(*) from failed_messages").await, 0);
    execute(&system, FREE_DISK).await;
    assert_all_cancelled(&system, commands.len()).await;
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_in_an_outage_do_not_count_as_crashes() {
    let system = with_stock("restarts_in_an_outage_do_not_count_as_crashes").await;
    execute(&system, FULL_DISK).await;
    let commands = cancelled_orders(1);
    system.sender.send_all(&commands).await;
    for _ in 0..6 {
        let worker = worker_with_small_units(&system, &[]);
        let waits = async || worker.log().contains("database unavailable");
        wait_until("the outage is logged", DRAINS_WITHIN, waits).await;
        assert!(worker.terminate().await.success());
        assert_eq!(system.count(STARTS).await, 0, "a shutdown leaves no unfinished start");
    }
    execute(&system, FREE_DISK).await;
    let worker = worker_with_small_units(&system, &[]);
    assert_all_cancelled(&system, commands.len()).await;
    system.close_after([worker]).await;
}

/// A unit of work that hangs is abandoned after the shutdown timeout.
#[tokio::test(flavor = "multi_thread")]
async fn an_exceeded_shutdown_timeout_does_not_count_as_a_crash() {
    let system = with_stock("an_exceeded_shutdown_timeout_does_not_count_as_a_crash").await;
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

/// A message that is handled alone after crashes keeps its position among its neighbours.
#[tokio::test(flavor = "multi_thread")]
async fn an_isolated_message_keeps_its_position() {
    let system = with_stock("an_isolated_message_keeps_its_position").await;
    system.expect_redeliveries();
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
        wait_for("the message is being handled", DRAINS_WITHIN, &1, async || system.count(hangs).await).await;
        wait_for("all messages are delivered", DRAINS_WITHIN, &0, async || system.ready("orders").await)
            .await;
        worker.kill().await;
        let ended = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                     where datname = current_database() and wait_event = 'PgSleep'";
        system.count(ended).await;
        wait_for("the session has ended", DRAINS_WITHIN, &0, async || system.count(hangs).await).await;
    }
    assert_eq!(system.count("select coalesce(max(starts), 0)::bigint from message_starts").await, 3);
    execute(&system, "drop trigger hangs on inbox").await;
    let worker = system.worker();
    system.wait_drained(6).await;
    assert_eq!(
        system.count("select count(*) from order_lines").await,
        0,
        "the line of a cancelled order is left"
    );
    assert_eq!(system.count(DEAD).await, 0);
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_keep_the_order_of_commands() {
    let system = TestSystem::new("kills_keep_the_order_of_commands").await;
    system.expect_redeliveries();
    let small = [("ALLOCATION__WORKER__MAX_BATCH", "20"), ("ALLOCATION__WORKER__PREFETCH", "200")];
    let mut worker = system.worker_with(&small);
    system.sender.send(&create_batch("b-1", "LAMP", 10_000)).await;
    system.wait_handled(1).await;
    let commands: Vec<_> = (0..400)
        .flat_map(|n| [allocate(&format!("o-{n}"), "LAMP", 1), deallocate(&format!("o-{n}"), "LAMP")])
        .collect();
    system.sender.send_all(&commands).await;
    for _ in 0..4 {
        let before = system.handled().await;
        wait_until("commands are handled", DRAINS_WITHIN, async || system.handled().await > before + 40)
            .await;
        worker.kill().await;
        worker = system.worker_with(&small);
    }
    system.settled(1 + commands.len()).await;
    assert_eq!(system.count("select count(*) from order_lines").await, 0);
    system.close_after([worker]).await;
}

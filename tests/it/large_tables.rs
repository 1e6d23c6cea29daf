//! Large tables: the cost of a statement does not grow with them, and very many rows can change in one unit of work.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use allocation::{
    ports::queue::QueueName,
    service::{message_bus::MessageBus, outcome::CommandOutcome},
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::harness::{
    Command, HandleAll as _, TestSystem, allocate, bus, command, create_batch, deallocate, wait_for,
    wait_until,
};

const LINES: usize = 1500;
const INVALID: usize = 1000;
/// The limit of rows that are fetched per line from all these tables: the line, its product and its batch, each a few times.
const ROWS_FOR_A_LINE: i64 = 30;

/// Rows of full scans. Only the program reads these tables during the test.
const SCANNED: &str = "select coalesce(sum(seq_tup_read), 0)::bigint from pg_stat_user_tables
     where relname in ('products', 'batches', 'order_lines', 'allocations_view', 'outbox', 'failed_messages')";
const FETCHED: &str = "select coalesce(sum(idx_tup_read), 0)::bigint from pg_stat_user_indexes
     where relname in ('products', 'batches', 'order_lines', 'allocations_view', 'failed_messages')";
const WRITTEN: &str = "select n_tup_del from pg_stat_user_tables where relname = 'allocations_view'";
const FAILED: &str =
    "insert into failed_messages (queue, message_id, fingerprint, type, body, properties, original,
         status, reason, error, error_pattern, error_group, attempts)
     select 'orders', 'failed-' || number, '', 'allocate', '', '{}', '', 'dead', 'rejected', '', '', 'group-1', 1
     from generate_series(1, 5000) as number";

#[tokio::test]
async fn statements_planned_on_empty_tables_use_indexes_on_full_ones() {
    let system = TestSystem::new("statements_planned_on_empty_tables_use_indexes_on_full_ones").await;
    // One partition with small units of work: its statements are planned long before the tables are full.
    let small = [("ALLOCATION__WORKER__PARTITIONS", "1"), ("ALLOCATION__WORKER__MAX_BATCH", "20")];
    let worker = system.worker_with(&small);
    system.sender.send(&create_batch("b", "LAMP", 1_000_000)).await;
    system.wait_handled(1).await;
    let orders: Vec<_> = (0..LINES).map(|number| format!("o{number}")).collect();
    let lines: Vec<_> = orders.iter().map(|order| allocate(order, "LAMP", 1)).collect();
    let invalid =
        |number| Command { kind: "allocate", message_id: format!("invalid-{number}"), body: json!([]) };
    let invalid: Vec<_> = (0..INVALID).map(invalid).collect();
    let (first, later) = invalid.split_at(INVALID / 10);
    system.sender.send_all(first).await;
    system.sender.send_all(&lines).await;
    system.wait_handled(1 + LINES).await;
    // Every unit of work looks up whether it resolves one of these, or which attempt it records.
    sqlx::raw_sql(FAILED).execute(&system.pool).await.unwrap();
    system.sender.send_all(later).await;
    let deallocated: Vec<_> = orders.iter().map(|order| deallocate(order, "LAMP")).collect();
    system.sender.send_all(&deallocated).await;
    system.wait_handled(1 + 2 * LINES).await;
    system.expect_dead(5000 + i64::try_from(INVALID).unwrap());

    let lines = i64::try_from(LINES).unwrap();
    wait_until("the server has counted", Duration::from_secs(20), async || {
        system.count(WRITTEN).await == lines
    })
    .await;
    assert_eq!(system.count(SCANNED).await, 0);
    let fetched = system.count(FETCHED).await;
    assert!(fetched < 2 * lines * ROWS_FOR_A_LINE, "{fetched} index entries for {} lines", 2 * lines);
    system.close_after([worker]).await;
}

/// The database could not write all these lines in one statement within its timeout.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_for_very_many_backorders_is_handled() {
    const LINES: i64 = 40_000;
    let system = TestSystem::new("a_batch_for_very_many_backorders_is_handled").await;
    let worker = system.worker_with(&[
        ("ALLOCATION__DATABASE__TIMEOUT", "2s"),
        ("ALLOCATION__WORKER__HANDLER_TIMEOUT", "2m"),
    ]);
    system.sender.send(&create_batch("empty", "LAMP", 0)).await;
    system.wait_handled(1).await;
    sqlx::raw_sql(
        "insert into order_lines (orderid, sku, qty, place) select 'o-' || n, 'LAMP', 1, n from generate_series(1, 40000) n;
         insert into allocations_view (orderid, sku, qty) select 'o-' || n, 'LAMP', 1 from generate_series(1, 40000) n;
         update products set backordered = 40000, last_place = 40000, version = version + 1",
    )
    .execute(&system.pool)
    .await
    .unwrap();
    system.sender.send(&create_batch("much", "LAMP", 40_000)).await;
    let allocated = "select count(*) from order_lines where batchref = 'much'";
    let all = async || system.count(allocated).await;
    wait_for("all lines are allocated", Duration::from_mins(3), &LINES, all).await;
    let errors: Vec<String> =
        sqlx::query_scalar("select error from failed_attempts").fetch_all(&system.pool).await.unwrap();
    assert_eq!(errors, [] as [&str; 0]);
    let published = async || system.count("select count(*) from outbox").await;
    wait_for("all events are published", Duration::from_mins(3), &0, published).await;
    system.close_after([worker]).await;
}

/// The shortest time of a command among a few. `body` is given a number that is different for each.
async fn shortest(bus: &MessageBus, kind: &str, body: impl Fn(usize) -> Value) -> Duration {
    let mut shortest = Duration::MAX;
    for number in 0..12 {
        let body = body(number);
        let mut messages = [command(&format!("{kind}-{body}"), kind, &body)];
        let begin = Instant::now();
        let outcomes = bus.handle_all(QueueName::Orders, &mut messages).await.unwrap();
        shortest = shortest.min(begin.elapsed());
        assert!(matches!(outcomes[..], [CommandOutcome::Handled]), "{body}: {outcomes:?}");
    }
    shortest
}

/// The time of each kind of command for a SKU with many batches and many backorders.
async fn times(bus: &MessageBus, sku: &str) -> Vec<(&'static str, Duration)> {
    let order = |number| format!("{sku}-o{number}");
    let batch = |number| format!("{sku}-{}", 100 + number);
    let mut times = Vec::new();
    let mut time = |name, took| times.push((name, took));
    let fits_none = |n| json!({ "orderid": order(n), "sku": sku, "qty": 200 });
    time("an allocation that fits no batch", shortest(bus, "allocate", fits_none).await);
    let fits_last = |n| json!({ "orderid": order(100 + n), "sku": sku, "qty": 106 });
    time("an allocation that fits few batches", shortest(bus, "allocate", fits_last).await);
    let large = |n| json!({ "orderid": order(n), "sku": format!("{sku}-large"), "qty": 1_000_000_001 + n });
    time("an allocation to one of many quantities", shortest(bus, "allocate", large).await);
    let removed = |n| json!({ "orderid": order(100 + n), "sku": sku });
    time("a deallocation", shortest(bus, "deallocate", removed).await);
    let created = |n| json!({ "ref": format!("{sku}-new{n}"), "sku": sku, "qty": 100, "eta": "2027-01-01" });
    time("a new batch", shortest(bus, "create_batch", created).await);
    let changed = |n| json!({ "batchref": batch(n), "qty": 101 + n });
    time("a larger batch", shortest(bus, "change_batch_quantity", changed).await);
    let reduced = |n| json!({ "batchref": batch(n), "qty": 0 });
    time("a smaller batch", shortest(bus, "change_batch_quantity", reduced).await);
    times
}

/// The numbers of batches and of backorders of a SKU; the variable `SIZES` replaces them, for a measurement.
fn sizes() -> Vec<i32> {
    let sizes = std::env::var("SIZES").unwrap_or_else(|_| "2000,20000,200000".into());
    sizes.split(',').map(|size| size.parse().expect("a number")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cost_of_a_command_does_not_grow_with_the_batches_and_backorders_of_its_sku() {
    let system =
        TestSystem::new("the_cost_of_a_command_does_not_grow_with_the_batches_and_backorders_of_its_sku")
            .await;
    let mut at_least = Vec::new();
    for size in sizes() {
        sqlx::raw_sql(&format!(
            "insert into products values ('N{size}', 1, 0, {size}, {size}::bigint * 250);
             insert into batches (ref, sku, ordered, purchased, allocated)
                 select 'N{size}-' || n, 'N{size}', 100, 100, 0 from generate_series(1, {size}) n;
             update batches set purchased = 105 where ref like 'N{size}-%5';
             update batches set allocated = 1 where ref like 'N{size}-%33';
             update batches set purchased = 106 where ref like 'N{size}-%007';
             insert into products values ('N{size}-large', 1, 0, 0, 0);
             insert into batches (ref, sku, ordered, purchased, allocated, eta)
                 select 'N{size}-few' || n, 'N{size}-large', 1, 1, 0, null from generate_series(1, 100) n;
             insert into batches (ref, sku, ordered, purchased, allocated, eta)
                 select 'N{size}-large' || n, 'N{size}-large', 1000000000 + n, 1000000000 + n, 0, '2027-01-01'
                 from generate_series(1, {size}) n;
             insert into order_lines (orderid, sku, qty, place)
                 select 'waiting-' || n, 'N{size}', 250, n from generate_series(1, {size}) n;"
        ))
        .execute(&system.pool)
        .await
        .unwrap();
        let times = times(&bus(system.store()), &format!("N{size}")).await;
        println!("{size}: {times:?}");
        if at_least.is_empty() {
            at_least.clone_from(&times);
        }
        for ((name, took), (_, least)) in times.iter().zip(&at_least) {
            assert!(
                *took < *least * 10 + Duration::from_millis(20),
                "{name} took {took:?} with {size} batches"
            );
        }
    }
    sqlx::raw_sql("truncate outbox").execute(&system.pool).await.unwrap();
    system.close().await;
}

/// The longest time for which nothing else could run in this thread, until it is dropped.
struct Pauses {
    longest: Arc<Mutex<Duration>>,
    task: JoinHandle<()>,
}

impl Pauses {
    fn begin() -> Self {
        let longest = Arc::new(Mutex::new(Duration::ZERO));
        let task = tokio::spawn({
            let longest = longest.clone();
            async move {
                loop {
                    let begin = Instant::now();
                    tokio::task::yield_now().await;
                    let mut longest = longest.lock().unwrap();
                    *longest = longest.max(begin.elapsed());
                }
            }
        });
        Self { longest, task }
    }

    fn longest(self) -> Duration {
        self.task.abort();
        *self.longest.lock().unwrap()
    }
}

/// A broker ends a connection without heartbeats, and their task may be in the thread of the command.
#[tokio::test]
async fn a_command_that_changes_very_many_lines_leaves_time_for_other_tasks() {
    const LINES: u32 = 60_000;
    let system = TestSystem::new("a_command_that_changes_very_many_lines_leaves_time_for_other_tasks").await;
    sqlx::raw_sql(
        "insert into products values ('LAMP', 1, 0, 60000, 0);
         insert into batches (ref, sku, ordered, purchased, allocated) values ('much', 'LAMP', 60000, 60000, 60000);
         insert into order_lines (orderid, sku, qty, place, batchref) select 'o-' || n, 'LAMP', 1, n, 'much' from generate_series(1, 60000) n;
         insert into allocations_view (orderid, sku, qty, batchref) select orderid, sku, qty, batchref from order_lines",
    )
    .execute(&system.pool)
    .await
    .unwrap();
    let bus = bus(system.store());
    for (number, quantity) in [0, LINES, 1].into_iter().enumerate() {
        let body = json!({ "batchref": "much", "qty": quantity });
        let mut messages = [command(&format!("change-{number}"), "change_batch_quantity", &body)];
        let (pauses, begin) = (Pauses::begin(), Instant::now());
        let outcomes = bus.handle_all(QueueName::Orders, &mut messages).await.unwrap();
        assert!(matches!(outcomes[..], [CommandOutcome::Handled]), "{outcomes:?}");
        let (took, longest) = (begin.elapsed(), pauses.longest());
        println!("to {quantity}: {took:?}, longest pause {longest:?}");
        assert!(longest < Duration::from_secs(3), "nothing else could run for {longest:?}");
        assert_eq!(system.count("select sum(allocated)::bigint from batches").await, i64::from(quantity));
    }
    system.assert_consistent().await;
    sqlx::raw_sql("truncate outbox").execute(&system.pool).await.unwrap();
    system.close().await;
}

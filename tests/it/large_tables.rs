//! Large tables: the cost of a statement does not grow with them, and very many rows can change in one unit of work.

use std::time::Duration;

use serde_json::json;

use crate::harness::{Command, TestSystem, allocate, create_batch, deallocate, wait_for, wait_until};

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
     select 'orders', 'failed-' || number, '', 'allocate', '', '{}', '', 'dead', 'rejected', '', '', '', 1
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

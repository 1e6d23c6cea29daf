//! What a statement costs does not grow with what is there: also where its plan was made while nothing was.

use std::time::Duration;

use serde_json::json;

use crate::harness::{Command, TestSystem, allocate, create_batch, deallocate, wait_until};

const LINES: usize = 1500;
const UNREADABLE: usize = 1000;
/// Rows that may be fetched for a line from all these tables: it, its product and its batch, each some few times.
const ROWS_FOR_A_LINE: i64 = 30;

/// The tables that grow, and that only the program reads during the test.
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
async fn a_table_that_was_empty_at_first_is_not_read_from_end_to_end_when_it_is_full() {
    let system = TestSystem::new("plans").await;
    // One lane with small units of work: each of its statements has its plan long before the tables are full.
    let small = [("ALLOCATION__WORKER__PARTITIONS", "1"), ("ALLOCATION__WORKER__MAX_BATCH", "20")];
    let worker = system.worker_with(&small);
    system.sender.send(&create_batch("b", "LAMP", 1_000_000)).await;
    system.wait_handled(1).await;
    let orders: Vec<_> = (0..LINES).map(|number| format!("o{number}")).collect();
    let lines: Vec<_> = orders.iter().map(|order| allocate(order, "LAMP", 1)).collect();
    let unreadable =
        |number| Command { kind: "allocate", message_id: format!("unreadable-{number}"), body: json!([]) };
    let unreadable: Vec<_> = (0..UNREADABLE).map(unreadable).collect();
    let (first, later) = unreadable.split_at(UNREADABLE / 10);
    system.sender.send_all(first).await;
    system.sender.send_all(&lines).await;
    system.wait_handled(1 + LINES).await;
    // Every unit of work looks whether it resolves one of these, or which attempt it has to record.
    sqlx::raw_sql(FAILED).execute(&system.pool).await.unwrap();
    system.sender.send_all(later).await;
    let gone: Vec<_> = orders.iter().map(|order| deallocate(order, "LAMP")).collect();
    system.sender.send_all(&gone).await;
    system.wait_handled(1 + 2 * LINES).await;
    system.expect_dead(5000 + i64::try_from(UNREADABLE).unwrap());

    let all = i64::try_from(LINES).unwrap();
    wait_until("the server has counted", Duration::from_secs(20), async || {
        system.count(WRITTEN).await == all
    })
    .await;
    assert_eq!(system.count(SCANNED).await, 0);
    let fetched = system.count(FETCHED).await;
    assert!(fetched < 2 * all * ROWS_FOR_A_LINE, "{fetched} index entries for {} lines", 2 * all);
    system.close_after([worker]).await;
}

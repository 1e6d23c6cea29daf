//! The read model agrees with the write side, and `allocation view rebuild` repairs rows that differ.

use std::collections::BTreeSet;

use serde_json::json;

use crate::harness::{DRAINS_WITHIN, TestSystem, Workload, allocate, create_batch, deallocate, wait_until};

/// Rebuilds the read model; returns the number of compared and of repaired lines.
async fn rebuild(system: &TestSystem) -> (i64, i64) {
    let report = system.cli(&["--json", "view", "rebuild"]).await.exits(0).json();
    let count = |field: &str| report[field].as_i64().expect("the field is a number");
    (count("lines"), count("differed"))
}

/// The text output of a call, on both streams.
async fn text(system: &TestSystem, arguments: &[&str], code: i32) -> String {
    format!("{:?}", system.cli(arguments).await.exits(code))
}

#[tokio::test(flavor = "multi_thread")]
async fn after_5000_random_commands_the_read_side_agrees_with_the_write_side() {
    let system = TestSystem::new("after_5000_random_commands_the_read_side_agrees_with_the_write_side").await;
    let workers = [system.worker(), system.worker()];
    let workload = Workload::seeded(31, 4000);
    workload.create_batches(&system).await;
    system.sender.send_all(&workload.commands).await;
    workload.assert_all_handled(&system).await;

    let lines = system.count("select count(*) from order_lines").await;
    assert_eq!(rebuild(&system).await, (lines, 0));
    let (views, batches) = (system.views(), system.allocated_lines().await);
    for (line, qty) in workload.remaining_lines.iter().step_by(20) {
        let (orderid, sku) = line;
        let order = views.order(orderid).await.unwrap().expect("the line exists");
        let [line_row] = &order.lines[..] else { panic!("{order:?}") };
        assert_eq!(
            (&line_row.sku, &line_row.qty, &line_row.batchref),
            (sku, qty, &batches.get(line).cloned())
        );
        let allocations = views.allocations(orderid).await.unwrap();
        assert_eq!(allocations.len(), usize::from(batches.contains_key(line)));
    }
    system.close_after(workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deallocating_a_line_removes_only_its_row() {
    let system = TestSystem::new("deallocating_a_line_removes_only_its_row").await;
    let worker = system.worker();
    system.sender.send_all(&[create_batch("b-1", "LAMP", 10), create_batch("b-2", "VASE", 10)]).await;
    system.wait_handled(2).await;
    system.sender.send_all(&[allocate("o-1", "LAMP", 1), allocate("o-1", "VASE", 1)]).await;
    system.wait_handled(4).await;
    system.sender.send(&deallocate("o-1", "LAMP")).await;
    system.settled(5).await;
    let order = system.views().order("o-1").await.unwrap().expect("the other line exists");
    let skus: Vec<_> = order.lines.iter().map(|line| line.sku.as_str()).collect();
    assert_eq!(skus, ["VASE"]);
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_during_writes_finds_no_difference() {
    let system = TestSystem::new("a_rebuild_during_writes_finds_no_difference").await;
    let workers = [system.worker(), system.worker()];
    let workload = Workload::seeded(32, 3000);
    workload.create_batches(&system).await;
    for part in workload.parts(6) {
        system.send_and_wait_for(part, 20).await;
        let (_, differed) = rebuild(&system).await;
        assert_eq!(differed, 0, "a concurrent write is no difference");
    }
    workload.assert_all_handled(&system).await;
    let lines = system.count("select count(*) from order_lines").await;
    assert_eq!(rebuild(&system).await, (lines, 0));
    system.close_after(workers).await;
}

/// 180 rows that differ from the write side; 50 of them have no line.
const CORRUPTION: &str = "
    update allocations_view set qty = qty + 1 where right(orderid, 3)::integer < 30;
    update allocations_view set batchref = null where right(orderid, 3)::integer between 30 and 59;
    update allocations_view set batchref = 'no-such-batch' where right(orderid, 3)::integer between 60 and 79;
    delete from allocations_view where right(orderid, 3)::integer between 80 and 129;
    insert into allocations_view (orderid, sku, qty, batchref)
    select 'ghost-' || number, 'LAMP', 1, 'b-1' from generate_series(1, 40) as number;
    insert into allocations_view (orderid, sku, qty)
    select 'order-' || number, 'NO-SUCH-SKU', 1 from generate_series(1, 10) as number;
";

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupted_read_model_is_repaired_and_every_row_is_counted() {
    let system = TestSystem::new("a_corrupted_read_model_is_repaired_and_every_row_is_counted").await;
    let worker = system.worker();
    system.sender.send(&create_batch("b-1", "LAMP", 400)).await;
    system.wait_handled(1).await;
    let lines: Vec<_> = (0..500).map(|number| allocate(&format!("o-{number:03}"), "LAMP", 1)).collect();
    system.sender.send_all(&lines).await;
    system.settled(501).await;

    sqlx::raw_sql(CORRUPTION).execute(&system.pool).await.unwrap();
    assert_eq!(rebuild(&system).await, (550, 180));
    system.assert_consistent().await;
    assert_eq!(rebuild(&system).await, (500, 0));

    sqlx::raw_sql("update allocations_view set qty = 9 where orderid = 'o-499'")
        .execute(&system.pool)
        .await
        .unwrap();
    let printed = text(&system, &["view", "rebuild"], 0).await;
    assert!(printed.contains("500 lines compared, 1 repaired"), "{printed}");
    let printed = text(&system, &["view", "rebuild"], 0).await;
    assert!(printed.contains("500 lines compared, no differences"), "{printed}");
    system.assert_consistent().await;
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_of_an_empty_database_compares_nothing() {
    let system = TestSystem::new("a_rebuild_of_an_empty_database_compares_nothing").await;
    assert_eq!(rebuild(&system).await, (0, 0));
    system.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_shown_as_text_and_json() {
    let system = TestSystem::new("an_order_is_shown_as_text_and_json").await;
    let worker = system.worker();
    system.sender.send_all(&[create_batch("b-1", "LAMP", 10), create_batch("b-2", "VASE", 1)]).await;
    system.wait_handled(2).await;
    system.sender.send_all(&[allocate("o-1", "VASE", 2), allocate("o-1", "LAMP", 4)]).await;
    system.settled(4).await;

    let lines = json!([
        { "sku": "LAMP", "qty": 4, "status": "allocated", "batchref": "b-1" },
        { "sku": "VASE", "qty": 2, "status": "backordered", "batchref": null },
    ]);
    let shown = system.cli(&["--json", "orders", "show", "o-1"]).await.exits(0).json();
    assert_eq!(shown, json!({ "orderid": "o-1", "lines": lines }));
    let printed = text(&system, &["orders", "show", "o-1"], 0).await;
    for word in ["sku", "qty", "status", "batch", "LAMP", "allocated", "b-1", "VASE", "backordered"] {
        assert!(printed.contains(word), "{word} is not in {printed}");
    }

    for unknown in [&["orders", "show", "o-9"][..], &["--json", "orders", "show", "o-9"]] {
        let printed = text(&system, unknown, 1).await;
        assert!(printed.contains("order o-9 has no lines"), "{printed}");
    }
    system.cli(&["orders", "show"]).await.exits(2);
    system.close_after([worker]).await;
}

/// A product with one batch with available stock, and 3,000 without.
const HISTORY: &str = "
    insert into products (sku, version, event_sequence, last_place, backordered) values ('LAMP', 1, 0, 0, 0);
    insert into batches (ref, sku, ordered, purchased, allocated, eta)
    select 'used-' || lpad(number::text, 4, '0'), 'LAMP', 5, 0, 0, date '2020-01-01' + number
    from generate_series(1, 3000) as number;
    insert into batches (ref, sku, ordered, purchased, allocated, eta)
    values ('open', 'LAMP', 10, 10, 0, date '2019-01-01');
";

#[tokio::test(flavor = "multi_thread")]
async fn of_many_batches_without_stock_only_the_latest_are_shown() {
    let system = TestSystem::new("of_many_batches_without_stock_only_the_latest_are_shown").await;
    sqlx::raw_sql(HISTORY).execute(&system.pool).await.unwrap();
    let availability = system.views().availability("LAMP").await.unwrap().expect("the product exists");
    let shown: Vec<_> = availability.batches.iter().map(|batch| batch.batchref.as_str()).collect();
    assert_eq!(shown.len(), 101);
    assert_eq!((shown[0], shown[1], shown[100]), ("open", "used-2901", "used-3000"));
    assert_eq!((availability.batches[0].available, availability.backordered), (10, 0));
    system.close().await;
}

/// 45,000 lines without rows: 15,000 orders of three products each, with a full batch for every product. The collation
/// orders ids by letters and not by bytes. Ranges end within an order.
const LINES_WITHOUT_ROWS: &str = r#"
    alter table order_lines alter orderid type text collate "und-x-icu";
    alter table allocations_view alter orderid type text collate "und-x-icu";
    insert into products (sku, version, event_sequence, last_place, backordered)
    select sku, 1, 0, 15000, 5000 from unnest(array['LAMP', 'lamp', 'Übertopf']) as sku;
    insert into batches (ref, sku, ordered, purchased, allocated)
    select 'b of ' || sku, sku, 10000, 10000, 10000 from products;
    insert into order_lines (orderid, sku, qty, place, batchref)
    select (array['order', 'Order', 'ÖRDER', 'o-rder', 'o.Rder', 'ôrder', 'straße ', '_', '#', 'zebra'])
               [1 + number % 10] || number,
           sku, 1, number, case when number % 3 > 0 then 'b of ' || sku end
    from generate_series(1, 15000) as number cross join products;
"#;

/// Corrupts the last line of the first range, the first line of the second one, and the last line.
const CORRUPTION_AT_RANGE_LIMITS: &str = "
    update allocations_view set qty = qty + 1 where (orderid, sku) in (
        select orderid, sku
        from (select orderid, sku, row_number() over (order by orderid, sku) as number from order_lines) as line
        where number in (20000, 20001, 45000)
    )
";

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_of_several_ranges_compares_every_line() {
    let system = TestSystem::new("a_rebuild_of_several_ranges_compares_every_line").await;
    sqlx::raw_sql(LINES_WITHOUT_ROWS).execute(&system.pool).await.unwrap();
    assert_eq!(rebuild(&system).await, (45_000, 45_000));
    system.assert_consistent().await;
    assert_eq!(rebuild(&system).await, (45_000, 0));

    sqlx::raw_sql(CORRUPTION_AT_RANGE_LIMITS).execute(&system.pool).await.unwrap();
    assert_eq!(rebuild(&system).await, (45_000, 3));
    system.assert_consistent().await;
    assert_eq!(rebuild(&system).await, (45_000, 0));
    system.close().await;
}

/// The start times of the transactions that wait for a lock.
const WAITING: &str = "
    select xact_start::text from pg_stat_activity
    where datname = current_database() and application_name = 'allocation' and wait_event_type = 'Lock'
";

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_waits_for_locked_products_and_repairs_their_remaining_rows() {
    let name = "a_rebuild_waits_for_locked_products_and_repairs_their_remaining_rows";
    let system = TestSystem::new(name).await;
    let worker = system.worker();
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    system.wait_handled(1).await;
    system.sender.send_all(&["o-1", "o-2", "o-3"].map(|orderid| allocate(orderid, "LAMP", 1))).await;
    system.settled(4).await;
    assert!(worker.terminate().await.success());
    let corruption = sqlx::raw_sql("update allocations_view set qty = 9 where orderid <> 'o-3'");
    corruption.execute(&system.pool).await.unwrap();

    let mut holder = system.pool.begin().await.unwrap();
    let hold = sqlx::raw_sql("select sku from products where sku = 'LAMP' for update");
    hold.execute(&mut *holder).await.unwrap();
    let repair = sqlx::raw_sql("update allocations_view set qty = 1 where orderid = 'o-2'");
    repair.execute(&mut *holder).await.unwrap();
    let release = async {
        let mut attempts = BTreeSet::new();
        let waits_again = async || {
            let waiting: Vec<String> = sqlx::query_scalar(WAITING).fetch_all(&system.pool).await.unwrap();
            attempts.extend(waiting);
            attempts.len() > 1
        };
        // In a second transaction: the first one has exceeded `lock_timeout`.
        wait_until("the rebuild waits again", DRAINS_WITHIN, waits_again).await;
        holder.commit().await.unwrap();
    };
    let (rebuilt, ()) = tokio::join!(rebuild(&system), release);
    assert_eq!(rebuilt, (3, 1));
    system.assert_consistent().await;
    assert_eq!(rebuild(&system).await, (3, 0));
    system.close().await;
}

//! The read side says what the write side knows; where somebody made it say something else, it is put right.

use std::collections::BTreeSet;

use serde_json::json;

use crate::harness::{DRAINS_WITHIN, Workload, World, allocate, create_batch, deallocate, wait_until};

/// Rebuilds the read model, and says how many lines were compared and how many differed.
async fn rebuild(world: &World) -> (i64, i64) {
    let told = world.cli(&["--json", "view", "rebuild"]).await.exits(0).json();
    let count = |field: &str| told[field].as_i64().expect("it is a number");
    (count("lines"), count("differed"))
}

/// What a call prints in words, on both of its streams.
async fn words(world: &World, arguments: &[&str], code: i32) -> String {
    format!("{:?}", world.cli(arguments).await.exits(code))
}

#[tokio::test(flavor = "multi_thread")]
async fn after_5000_random_commands_the_read_side_says_what_the_write_side_knows() {
    let world = World::new("after_5000_random_commands_the_read_side_says_what_the_write_side_knows").await;
    let workers = [world.worker(), world.worker()];
    let season = Workload::seeded(31, 4000);
    season.open(&world).await;
    world.sender.send_all(&season.commands).await;
    season.assert_all_is_done(&world).await;

    let lines = world.count("select count(*) from order_lines").await;
    assert_eq!(rebuild(&world).await, (lines, 0));
    let (views, batches) = (world.views(), world.allocated_lines().await);
    for (line, qty) in season.kept.iter().step_by(20) {
        let (orderid, sku) = line;
        let order = views.order(orderid).await.unwrap().expect("a line that was kept is known");
        let [shown] = &order.lines[..] else { panic!("{order:?}") };
        assert_eq!((&shown.sku, &shown.qty, &shown.batchref), (sku, qty, &batches.get(line).cloned()));
        let allocations = views.allocations(orderid).await.unwrap();
        assert_eq!(allocations.len(), usize::from(batches.contains_key(line)));
    }
    world.close_after(workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_order_only_the_line_that_was_taken_back_is_gone() {
    let world = World::new("of_an_order_only_the_line_that_was_taken_back_is_gone").await;
    let worker = world.worker();
    world.sender.send_all(&[create_batch("b-1", "LAMP", 10), create_batch("b-2", "VASE", 10)]).await;
    world.wait_handled(2).await;
    world.sender.send_all(&[allocate("o-1", "LAMP", 1), allocate("o-1", "VASE", 1)]).await;
    world.wait_handled(4).await;
    world.sender.send(&deallocate("o-1", "LAMP")).await;
    world.settled(5).await;
    let order = world.views().order("o-1").await.unwrap().expect("one line is left");
    let skus: Vec<_> = order.lines.iter().map(|line| line.sku.as_str()).collect();
    assert_eq!(skus, ["VASE"]);
    world.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_while_work_goes_on_finds_nothing_that_differs() {
    let world = World::new("a_rebuild_while_work_goes_on_finds_nothing_that_differs").await;
    let workers = [world.worker(), world.worker()];
    let season = Workload::seeded(32, 3000);
    season.open(&world).await;
    for part in season.parts(6) {
        world.get_under_way(part, 20).await;
        let (_, differed) = rebuild(&world).await;
        assert_eq!(differed, 0, "what is being written is no difference");
    }
    season.assert_all_is_done(&world).await;
    let lines = world.count("select count(*) from order_lines").await;
    assert_eq!(rebuild(&world).await, (lines, 0));
    world.close_after(workers).await;
}

/// 180 rows that say something else than the write side, 50 of them of lines that there never were.
const SABOTAGE: &str = "
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
async fn a_sabotaged_read_model_is_put_right_and_every_row_counted() {
    let world = World::new("a_sabotaged_read_model_is_put_right_and_every_row_counted").await;
    let worker = world.worker();
    world.sender.send(&create_batch("b-1", "LAMP", 400)).await;
    world.wait_handled(1).await;
    let lines: Vec<_> = (0..500).map(|number| allocate(&format!("o-{number:03}"), "LAMP", 1)).collect();
    world.sender.send_all(&lines).await;
    world.settled(501).await;

    sqlx::raw_sql(SABOTAGE).execute(&world.pool).await.unwrap();
    assert_eq!(rebuild(&world).await, (550, 180));
    world.assert_consistent().await;
    assert_eq!(rebuild(&world).await, (500, 0));

    sqlx::raw_sql("update allocations_view set qty = 9 where orderid = 'o-499'")
        .execute(&world.pool)
        .await
        .unwrap();
    let told = words(&world, &["view", "rebuild"], 0).await;
    assert!(told.contains("500 lines compared, 1 repaired"), "{told}");
    let told = words(&world, &["view", "rebuild"], 0).await;
    assert!(told.contains("500 lines compared, no differences"), "{told}");
    world.assert_consistent().await;
    world.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_of_nothing_compares_nothing() {
    let world = World::new("a_rebuild_of_nothing_compares_nothing").await;
    assert_eq!(rebuild(&world).await, (0, 0));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_shown_in_words_and_in_json() {
    let world = World::new("an_order_is_shown_in_words_and_in_json").await;
    let worker = world.worker();
    world.sender.send_all(&[create_batch("b-1", "LAMP", 10), create_batch("b-2", "VASE", 1)]).await;
    world.wait_handled(2).await;
    world.sender.send_all(&[allocate("o-1", "VASE", 2), allocate("o-1", "LAMP", 4)]).await;
    world.settled(4).await;

    let lines = json!([
        { "sku": "LAMP", "qty": 4, "status": "allocated", "batchref": "b-1" },
        { "sku": "VASE", "qty": 2, "status": "backordered", "batchref": null },
    ]);
    let shown = world.cli(&["--json", "orders", "show", "o-1"]).await.exits(0).json();
    assert_eq!(shown, json!({ "orderid": "o-1", "lines": lines }));
    let told = words(&world, &["orders", "show", "o-1"], 0).await;
    for word in ["sku", "qty", "status", "batch", "LAMP", "allocated", "b-1", "VASE", "backordered"] {
        assert!(told.contains(word), "{word} is not in {told}");
    }

    for unknown in [&["orders", "show", "o-9"][..], &["--json", "orders", "show", "o-9"]] {
        let told = words(&world, unknown, 1).await;
        assert!(told.contains("order o-9 has no lines"), "{told}");
    }
    world.cli(&["orders", "show"]).await.exits(2);
    world.close_after([worker]).await;
}

/// A product with a long history: a batch with something left, and 3,000 that are used up.
const HISTORY: &str = "
    insert into products (sku, version, event_sequence, last_place, backordered) values ('LAMP', 1, 0, 0, 0);
    insert into batches (ref, sku, ordered, purchased, allocated, eta)
    select 'used-' || lpad(number::text, 4, '0'), 'LAMP', 5, 0, 0, date '2020-01-01' + number
    from generate_series(1, 3000) as number;
    insert into batches (ref, sku, ordered, purchased, allocated, eta)
    values ('open', 'LAMP', 10, 10, 0, date '2019-01-01');
";

#[tokio::test(flavor = "multi_thread")]
async fn of_many_batches_that_are_used_up_only_the_last_are_shown() {
    let world = World::new("of_many_batches_that_are_used_up_only_the_last_are_shown").await;
    sqlx::raw_sql(HISTORY).execute(&world.pool).await.unwrap();
    let there_is = world.views().availability("LAMP").await.unwrap().expect("the product is known");
    let shown: Vec<_> = there_is.batches.iter().map(|batch| batch.batchref.as_str()).collect();
    assert_eq!(shown.len(), 101);
    assert_eq!((shown[0], shown[1], shown[100]), ("open", "used-2901", "used-3000"));
    assert_eq!((there_is.batches[0].available, there_is.backordered), (10, 0));
    world.close().await;
}

/// 45,000 lines and not a row that tells of them: 15,000 orders of three products each, with a full batch for every
/// product. Ids are ordered by letters and not by bytes, whatever the server is used to; parts end within an order.
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

/// The last of the first 20,000, the first of the next, and the last of all.
const SABOTAGE_AT_THE_EDGES: &str = "
    update allocations_view set qty = qty + 1 where (orderid, sku) in (
        select orderid, sku
        from (select orderid, sku, row_number() over (order by orderid, sku) as number from order_lines) as line
        where number in (20000, 20001, 45000)
    )
";

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_of_more_lines_than_are_compared_at_once_leaves_out_none() {
    let world = World::new("a_rebuild_of_more_lines_than_are_compared_at_once_leaves_out_none").await;
    sqlx::raw_sql(LINES_WITHOUT_ROWS).execute(&world.pool).await.unwrap();
    assert_eq!(rebuild(&world).await, (45_000, 45_000));
    world.assert_consistent().await;
    assert_eq!(rebuild(&world).await, (45_000, 0));

    sqlx::raw_sql(SABOTAGE_AT_THE_EDGES).execute(&world.pool).await.unwrap();
    assert_eq!(rebuild(&world).await, (45_000, 3));
    world.assert_consistent().await;
    assert_eq!(rebuild(&world).await, (45_000, 0));
    world.close().await;
}

/// When each transaction began that waits for a lock.
const WAITING: &str = "
    select xact_start::text from pg_stat_activity
    where datname = current_database() and application_name = 'allocation' and wait_event_type = 'Lock'
";

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_outwaits_whoever_holds_a_product_and_rights_what_they_leave_wrong() {
    let name = "a_rebuild_outwaits_whoever_holds_a_product_and_rights_what_they_leave_wrong";
    let world = World::new(name).await;
    let worker = world.worker();
    world.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    world.wait_handled(1).await;
    world.sender.send_all(&["o-1", "o-2", "o-3"].map(|orderid| allocate(orderid, "LAMP", 1))).await;
    world.settled(4).await;
    assert!(worker.terminate().await.success());
    let sabotage = sqlx::raw_sql("update allocations_view set qty = 9 where orderid <> 'o-3'");
    sabotage.execute(&world.pool).await.unwrap();

    let mut holder = world.pool.begin().await.unwrap();
    let hold = sqlx::raw_sql("select sku from products where sku = 'LAMP' for update");
    hold.execute(&mut *holder).await.unwrap();
    let put_right = sqlx::raw_sql("update allocations_view set qty = 1 where orderid = 'o-2'");
    put_right.execute(&mut *holder).await.unwrap();
    let let_go = async {
        let mut tries = BTreeSet::new();
        let waits_again = async || {
            let waiting: Vec<String> = sqlx::query_scalar(WAITING).fetch_all(&world.pool).await.unwrap();
            tries.extend(waiting);
            tries.len() > 1
        };
        // In another transaction than before: the first has waited in vain for as long as a lock is waited for.
        wait_until("the rebuild waits again", DRAINS_WITHIN, waits_again).await;
        holder.commit().await.unwrap();
    };
    let (rebuilt, ()) = tokio::join!(rebuild(&world), let_go);
    assert_eq!(rebuilt, (3, 1));
    world.assert_consistent().await;
    assert_eq!(rebuild(&world).await, (3, 0));
    world.close().await;
}

//! What an audit tried to break and could not: it must stay so.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::{
    Client, DRAINS_WITHIN, JSON, TestSystem, allocate, change_batch_quantity, create_batch, deallocate,
    wait_until,
};

const FAILED: &str = "select count(*) from failed_messages";

/// Every tenth message commits up to 0.3 s late.
const LATE_COMMITS: &str = "create function be_late() returns trigger language plpgsql as $$
     begin perform pg_sleep(random() * 0.3); return null; end $$;
     create constraint trigger late after insert on inbox deferrable initially deferred
     for each row when (right(new.message_id, 1) = '7') execute function be_late()";

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_in_two_processes_have_one_effect_although_commits_are_late() {
    let system =
        TestSystem::new("duplicates_in_two_processes_have_one_effect_although_commits_are_late").await;
    let workers = [system.worker(), system.worker()];
    system.sender.send(&create_batch("b-1", "LAMP", 1000)).await;
    system.wait_handled(1).await;
    sqlx::raw_sql(LATE_COMMITS).execute(&system.pool).await.unwrap();
    let lines: Vec<_> =
        (0..200).map(|n| allocate(&format!("o-{n}"), "LAMP", 1).with_id(&format!("m{n}"))).collect();
    let three_times: Vec<_> = (0..3).flat_map(|_| lines.iter().cloned()).collect();
    system.sender.send_all(&three_times).await;
    let events = system.settled(201).await;
    assert_eq!(events.len(), 200);
    assert_eq!(system.count("select allocated::bigint from batches").await, 200);
    assert_eq!(system.count(FAILED).await, 0);
    system.close_after(workers).await;
}

/// A delivery is stuck in one lane, those behind it in the queue are handled in the other: nothing is acknowledged past it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_behind_a_stuck_delivery_comes_again_after_a_kill_and_has_one_effect() {
    let system =
        TestSystem::new("what_is_behind_a_stuck_delivery_comes_again_after_a_kill_and_has_one_effect").await;
    system.expect_repeats();
    let worker = system.worker();
    let skus = ["LAMP", "VASE", "STOOL", "CHAIR"];
    system.sender.send_all(&skus.map(|sku| create_batch(&format!("b-{sku}"), sku, 1000))).await;
    system.wait_handled(4).await;
    worker.terminate().await;
    let mut locker = system.pool.begin().await.unwrap();
    sqlx::query("select from products where sku = 'LAMP' for update").execute(&mut *locker).await.unwrap();
    let mut commands = vec![allocate("stuck", "LAMP", 1)];
    for number in 0..120 {
        commands.push(allocate(&format!("o-{number}"), skus[1 + number % 3], 1));
    }
    system.sender.send_all(&commands).await;
    let worker = system.worker();
    // At least one of the three is in another lane than the one that is stuck.
    let some = async || system.count("select count(*) from order_lines").await >= 40;
    wait_until("the other lane goes on", DRAINS_WITHIN, some).await;
    worker.kill().await;
    locker.rollback().await.unwrap();
    let worker = system.worker();
    system.settled(4 + commands.len()).await;
    assert_eq!(system.count("select count(*) from order_lines").await, 121);
    system.close_after([worker]).await;
}

/// SIGKILL keeps the order of what it interrupts, as an orderly stop does.
#[tokio::test(flavor = "multi_thread")]
async fn kills_keep_the_order() {
    let system = TestSystem::new("kills_keep_the_order").await;
    system.expect_repeats();
    let small = [("ALLOCATION__WORKER__MAX_BATCH", "20"), ("ALLOCATION__WORKER__PREFETCH", "200")];
    let mut worker = system.worker_with(&small);
    system.sender.send(&create_batch("b-1", "LAMP", 10_000)).await;
    system.wait_handled(1).await;
    let pairs: Vec<_> = (0..400)
        .flat_map(|n| [allocate(&format!("o-{n}"), "LAMP", 1), deallocate(&format!("o-{n}"), "LAMP")])
        .collect();
    system.sender.send_all(&pairs).await;
    for _ in 0..4 {
        let before = system.handled().await;
        wait_until("work goes on", DRAINS_WITHIN, async || system.handled().await > before + 40).await;
        worker.kill().await;
        worker = system.worker_with(&small);
    }
    system.settled(1 + pairs.len()).await;
    assert_eq!(system.count("select count(*) from order_lines").await, 0);
    system.close_after([worker]).await;
}

async fn post(client: Client, path: &'static str, key: String, body: Value) -> u16 {
    let headers = [JSON, ("Idempotency-Key", key.as_str())];
    client.request("POST", path, &headers, body.to_string().as_bytes()).await.status
}

/// Requests that wait at the same time go into one unit of work; each is answered for itself.
#[tokio::test(flavor = "multi_thread")]
async fn one_unit_of_work_over_http_answers_each_request_for_itself() {
    let system = TestSystem::new("one_unit_of_work_over_http_answers_each_request_for_itself").await;
    let (api, client) = system.api("api,relay", &[]).await;
    client
        .post("/add_batch", &json!({ "ref": "b-1", "sku": "LAMP", "qty": 1000, "eta": null }))
        .await
        .has(201);
    // Held for a moment, so that the requests gather.
    let mut locker = system.pool.begin().await.unwrap();
    sqlx::query("select from products for update").execute(&mut *locker).await.unwrap();
    let line = |orderid: &str, sku: &str| json!({ "orderid": orderid, "sku": sku, "qty": 1 });
    let mut wanted = vec![("same".to_owned(), line("same", "LAMP"), 202); 4];
    wanted.push(("same".into(), line("another", "LAMP"), 409));
    wanted.push(("rejected".into(), line("rejected", "NO-SUCH-SKU"), 400));
    wanted.push(("unreadable".into(), json!({ "orderid": "unreadable" }), 400));
    wanted.extend((0..40).map(|n| (format!("good-{n}"), line(&format!("good-{n}"), "LAMP"), 202)));
    let mut requests = JoinSet::new();
    for (key, body, status) in wanted {
        let answer = post(client.clone(), "/allocate", key.clone(), body);
        requests.spawn(async move { (key, answer.await, status) });
    }
    let waits = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    wait_until("they wait", DRAINS_WITHIN, async || system.count(waits).await > 0).await;
    locker.rollback().await.unwrap();
    let mut same = Vec::new();
    for (key, status, expected) in requests.join_all().await {
        if key == "same" {
            same.push(status);
        } else {
            assert_eq!(status, expected, "{key}");
        }
    }
    // Of the five under one key, the first to come decides which body is the other one.
    same.sort_unstable();
    assert!(same == [202, 202, 202, 202, 409] || same == [202, 409, 409, 409, 409], "{same:?}");
    assert_eq!(system.count("select count(*) from order_lines").await, 41);
    assert_eq!(system.count(FAILED).await, 0);
    system.settled(42).await;
    system.close_after([api]).await;
}

/// The largest quantities add up beyond 32 bits.
#[tokio::test(flavor = "multi_thread")]
async fn sums_of_the_largest_quantities_are_right() {
    const MOST: u32 = 2_147_483_647;
    let system = TestSystem::new("sums_of_the_largest_quantities_are_right").await;
    let worker = system.worker();
    system.sender.send(&create_batch("first", "LAMP", 0)).await;
    system.wait_handled(1).await;
    let lines: Vec<_> = (0..50).map(|n| allocate(&format!("o-{n}"), "LAMP", MOST)).collect();
    system.sender.send_all(&lines).await;
    system.wait_handled(51).await;
    assert_eq!(system.count("select backordered from products").await, 50 * i64::from(MOST));
    let batches: Vec<_> = (0..30).map(|n| create_batch(&format!("b-{n:02}"), "LAMP", MOST)).collect();
    system.sender.send_all(&batches).await;
    system.wait_handled(81).await;
    system
        .sender
        .send_all(&[change_batch_quantity("b-00", 0), change_batch_quantity("b-01", MOST - 1)])
        .await;
    system.wait_handled(83).await;
    system.sender.send(&deallocate("o-49", "LAMP")).await;
    system.settled(84).await;
    // Thirty lines were allocated, two of them lost their batch, and one backorder was cancelled.
    assert_eq!(system.count("select backordered from products").await, 21 * i64::from(MOST));
    assert_eq!(system.count("select sum(allocated)::bigint from batches").await, 28 * i64::from(MOST));
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_that_is_not_above_the_last_one_is_skipped() {
    let system = TestSystem::new("a_revision_that_is_not_above_the_last_one_is_skipped").await;
    let worker = system.worker();
    system.sender.send(&create_batch("b-1", "LAMP", 1)).await;
    system.wait_handled(1).await;
    let revisions = [(Some(5), 50), (Some(5), 51), (Some(4), 40), (None, 60), (Some(5), 52), (Some(6), 70)];
    let expected = [50, 50, 50, 60, 60, 70];
    for (number, ((revision, qty), expected)) in revisions.into_iter().zip(expected).enumerate() {
        let change = change_batch_quantity("b-1", qty).with_id(&format!("change-{number}"));
        system.sender.send(&change.with("revision", json!(revision))).await;
        system.wait_handled(2 + number).await;
        assert_eq!(system.count("select purchased::bigint from batches").await, expected, "change {number}");
    }
    system.settled(7).await;
    tokio::time::timeout(Duration::from_secs(20), system.close_after([worker])).await.unwrap();
}

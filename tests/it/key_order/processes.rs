//! The scenarios with the program, its queues and its HTTP API.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{
    Command, DRAINS_WITHIN, JSON, Running, TestSystem, allocate, change_batch_quantity, create_batch,
    deallocate, wait_for, wait_until,
};

const DEAD: &str = "select count(*) from failed_messages where status = 'dead'";
const RETRYING: &str = "select count(*) from failed_messages where status = 'retrying'";
const WAITING: &str = "select count(*) from failed_messages where status = 'waiting'";
const LINES: &str = "select count(*) from order_lines";
/// The retry comes after everything else that a test does.
const SLOW_RETRIES: [(&str, &str); 2] =
    [("ALLOCATION__RETRY__INITIAL_INTERVAL", "3s"), ("ALLOCATION__RETRY__MAX_ATTEMPTS", "2")];

async fn wait_count(system: &TestSystem, what: &str, query: &'static str, count: i64) {
    wait_for(what, DRAINS_WITHIN, &count, async || system.count(query).await).await;
}

/// A system with a batch `b-1` of the product LAMP.
async fn with_stock(name: &str) -> (TestSystem, Running) {
    let system = TestSystem::new(name).await;
    let worker = system.worker_with(&SLOW_RETRIES);
    system.sender.send(&create_batch("b-1", "LAMP", 100)).await;
    system.wait_handled(1).await;
    (system, worker)
}

/// A line, the same line with another quantity, which is rejected, and the cancellation.
fn cancelled_line() -> [Command; 3] {
    [
        allocate("o-1", "LAMP", 1),
        allocate("o-1", "LAMP", 2).with_id("another quantity"),
        deallocate("o-1", "LAMP"),
    ]
}

/// The rejected command is retried in vain and then dead; the cancellation comes after it.
async fn assert_cancelled(system: &TestSystem) {
    wait_count(system, "the other quantity is dead", DEAD, 1).await;
    system.expect_dead(1);
    wait_count(system, "the cancellation is handled", WAITING, 0).await;
    wait_count(system, "the line is removed", LINES, 0).await;
    system.settled(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_retry_does_not_allocate_a_cancelled_line() {
    let (system, worker) = with_stock("a_late_retry_does_not_allocate_a_cancelled_line").await;
    system.sender.send_all(&cancelled_line()).await;
    wait_count(&system, "the cancellation waits", WAITING, 1).await;
    let listed = system.cli(&["--json", "dead-letters", "list", "--status", "waiting"]).await.exits(0).json();
    let retrying = system.count("select id from failed_messages where status = 'retrying'").await;
    assert_eq!(
        (&listed[0]["message_id"], &listed[0]["behind"]),
        (&json!("deallocate LAMP for o-1"), &json!(retrying))
    );
    let id = listed[0]["id"].to_string();
    let shown = system.cli(&["dead-letters", "show", &id]).await.exits(0).text();
    assert!(shown.contains(&format!("behind     {retrying}")), "{shown}");
    let status = system.cli(&["status"]).await.exits(0).text();
    assert!(status.contains("1 retrying, 1 waiting, 0 dead"), "{status}");
    let skipped = system.cli(&["dead-letters", "retry", &id]).await.exits(1).text();
    assert!(skipped.contains("waits for an earlier message"), "{skipped}");
    assert_cancelled(&system).await;
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_is_kept_when_the_worker_ends_at_any_step() {
    for (number, kills) in [true, false].into_iter().enumerate() {
        let (system, mut worker) =
            with_stock(&format!("the_order_is_kept_when_the_worker_ends_at_any_step_{number}")).await;
        system.expect_redeliveries();
        let restart = async |worker: Running| {
            if kills {
                worker.kill().await;
            } else {
                assert!(worker.terminate().await.success());
            }
            system.worker_with(&SLOW_RETRIES)
        };
        let [line, other_quantity, cancellation] = cancelled_line();
        system.sender.send(&line).await;
        worker = restart(worker).await;
        system.sender.send(&other_quantity).await;
        wait_count(&system, "the other quantity is rejected", RETRYING, 1).await;
        worker = restart(worker).await;
        system.sender.send(&cancellation).await;
        worker = restart(worker).await;
        wait_count(&system, "the cancellation waits", WAITING, 1).await;
        worker = restart(worker).await;
        assert_cancelled(&system).await;
        system.close_after([worker]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_has_to_wait_is_accepted_and_handled_in_its_turn() {
    let name = "a_request_that_has_to_wait_is_accepted_and_handled_in_its_turn";
    let (system, worker) = with_stock(name).await;
    let (api, client) = system.api("api", &[]).await;
    let [line, other_quantity, cancellation] = cancelled_line();
    system.sender.send_all(&[line, other_quantity]).await;
    wait_count(&system, "the other quantity is rejected", RETRYING, 1).await;
    let headers = [JSON, ("Idempotency-Key", "the cancellation")];
    let body = cancellation.body.to_string();
    // A request that is sent again is the same command.
    for _ in 0..2 {
        let answer =
            client.request("POST", "/deallocate", &headers, body.as_bytes()).await.expect_status(202);
        assert_eq!(answer.text(), "OK");
    }
    assert_eq!(system.count(WAITING).await, 1);
    let other = client.request("POST", "/deallocate", &[JSON], &other_line()).await;
    other.expect_status(202);
    assert_eq!(system.count(WAITING).await, 1, "another line does not wait");
    wait_count(&system, "the other quantity is dead", DEAD, 1).await;
    system.expect_dead(1);
    wait_count(&system, "the line is removed", LINES, 0).await;
    system.settled(4).await;
    system.close_after([worker, api]).await;
}

fn other_line() -> Vec<u8> {
    json!({ "orderid": "o-2", "sku": "LAMP" }).to_string().into_bytes()
}

/// The first change fails twice, because its batch is unknown; the later ones have come meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_of_several_changes_counts() {
    let system = TestSystem::new("the_last_of_several_changes_counts").await;
    let retries = [("ALLOCATION__RETRY__INITIAL_INTERVAL", "1s"), ("ALLOCATION__RETRY__MULTIPLIER", "1")];
    let worker = system.worker_with(&retries);
    let changes = [10, 20, 5].map(|quantity| change_batch_quantity("b-1", quantity));
    system.sender.send(&changes[0]).await;
    let attempts = "select count(*) from failed_attempts";
    wait_count(&system, "the first change has failed", attempts, 1).await;
    system.sender.send_all(&changes[1..]).await;
    wait_count(&system, "the later changes wait", WAITING, 2).await;
    wait_count(&system, "the first change has failed again", attempts, 2).await;
    system.sender.send(&create_batch("b-1", "LAMP", 100)).await;
    system.settled(4).await;
    assert_eq!(system.count("select purchased::bigint from batches").await, 5);
    assert_eq!(system.count("select count(*) from failed_messages where status = 'resolved'").await, 3);
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_commands_that_wait_for_one_are_handled_in_their_order_within_seconds() {
    let name = "a_thousand_commands_that_wait_for_one_are_handled_in_their_order_within_seconds";
    let system = TestSystem::new(name).await;
    let worker = system.worker_with(&[("ALLOCATION__RETRY__INITIAL_INTERVAL", "1h")]);
    system.sender.send(&change_batch_quantity("b-1", 1)).await;
    wait_count(&system, "the first change is rejected", RETRYING, 1).await;
    let changes: Vec<_> = (2..=1001).map(|quantity| change_batch_quantity("b-1", quantity)).collect();
    system.sender.send_all(&changes).await;
    wait_count(&system, "the others wait", WAITING, 1000).await;
    system.sender.send(&create_batch("b-1", "LAMP", 100)).await;
    system.wait_handled(1).await;
    let begin = Instant::now();
    let first = system.count("select min(id) from failed_messages").await.to_string();
    system.cli(&["dead-letters", "retry", &first]).await.exits(0);
    system.settled(1002).await;
    println!("1,000 commands that waited were handled in {:.1?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_mins(1), "{:?}", begin.elapsed());
    assert_eq!(system.count("select purchased::bigint from batches").await, 1001);
    system.close_after([worker]).await;
}

/// The operator ends the message that others wait for.
#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_message_holds_up_no_other_one() {
    let system = TestSystem::new("a_discarded_message_holds_up_no_other_one").await;
    let worker = system.worker_with(&[("ALLOCATION__RETRY__INITIAL_INTERVAL", "1h")]);
    let changes = [1, 2, 3].map(|quantity| change_batch_quantity("b-1", quantity));
    system.sender.send(&changes[0]).await;
    wait_count(&system, "the first change is rejected", RETRYING, 1).await;
    system.sender.send_all(&changes[1..]).await;
    wait_count(&system, "the others wait", WAITING, 2).await;
    system.sender.send(&create_batch("b-1", "LAMP", 100)).await;
    system.wait_handled(1).await;
    let id = async |kind: &str| {
        let id = format!("select id from failed_messages where message_id = 'change b-1 to {kind}'");
        let id: i64 = sqlx::query_scalar(&id).fetch_one(&system.pool).await.unwrap();
        id.to_string()
    };
    // A message that waits can be discarded, and one that is retried.
    for discarded in ["2", "1"] {
        let discard = ["dead-letters", "discard", &id(discarded).await, "--why", "it is wrong"];
        system.cli(&discard).await.exits(0);
    }
    wait_count(&system, "the last change is handled", "select purchased::bigint from batches", 3).await;
    let restored = ["--json", "dead-letters", "restore", &id("1").await];
    system.cli(&restored).await.exits(0);
    let shown = system.cli(&["--json", "dead-letters", "show", &id("1").await]).await.exits(0).json();
    assert_eq!(
        [&shown["status"], &shown["reason"], &shown["overtaken_by"]],
        [&json!("dead"), &json!("discarded"), &json!("change b-1 to 3")]
    );
    system.expect_dead(1);
    wait_until("nothing is in progress", DRAINS_WITHIN, async || system.count(WAITING).await == 0).await;
    system.close_after([worker]).await;
}

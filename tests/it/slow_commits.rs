//! Commits that are answered late: whether a command was handled is not known, and that is what its sender hears.

use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;

use crate::harness::{Client, DRAINS_WITHIN, JSON, Response, TestSystem, allocate, create_batch, wait_for};

/// Every commit that has lines takes longer than the program waits for the database.
const SLOW_COMMITS: &str = "create function be_slow() returns trigger language plpgsql as $$
     begin perform pg_sleep(3); return null; end $$;
     create constraint trigger slow after insert on order_lines deferrable initially deferred
     for each row execute function be_slow()";
const IMPATIENT: &[(&str, &str)] = &[("ALLOCATION__DATABASE__TIMEOUT", "1s")];

async fn with_stock(name: &str) -> TestSystem {
    let system = TestSystem::new(name).await;
    let worker = system.worker();
    system.sender.send(&create_batch("b-1", "LAMP", 100)).await;
    system.wait_handled(1).await;
    worker.terminate().await;
    sqlx::raw_sql(SLOW_COMMITS).execute(&system.pool).await.unwrap();
    system
}

async fn post(client: &Client, orderid: &str, sku: &str) -> Response {
    let body = json!({ "orderid": orderid, "sku": sku, "qty": 1 }).to_string();
    let headers = [JSON, ("Idempotency-Key", orderid)];
    client.request("POST", "/allocate", &headers, body.as_bytes()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_a_slow_commit_is_answered_by_in_doubt_and_never_by_not_done() {
    let system = with_stock("over_http_a_slow_commit_is_answered_by_in_doubt_and_never_by_not_done").await;
    let (api, client) = system.api("api,relay", IMPATIENT).await;
    let mut requests = JoinSet::new();
    for number in 0..4 {
        let client = client.clone();
        requests.spawn(async move { post(&client, &format!("o-{number}"), "LAMP").await });
    }
    let (mut done_or_in_doubt, mut in_doubt) = (0, 0);
    for answer in requests.join_all().await {
        match answer.status {
            202 => done_or_in_doubt += 1,
            503 if answer.message().contains("may have been processed") => {
                in_doubt += 1;
                done_or_in_doubt += 1;
            }
            // It waited for a transaction in doubt, and never came to its own commit.
            503 => assert!(answer.message().contains("was not processed"), "{answer:?}"),
            _ => panic!("{answer:?}"),
        }
    }
    assert!(in_doubt > 0, "no commit was in doubt");
    let ended =
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'";
    wait_for("every commit has ended", DRAINS_WITHIN, &0, async || system.count(ended).await).await;
    let lines = system.count("select count(*) from order_lines").await;
    assert_eq!(lines, done_or_in_doubt, "what was said not to be done is done");
    sqlx::raw_sql("drop trigger slow on order_lines").execute(&system.pool).await.unwrap();
    for number in 0..4 {
        post(&client, &format!("o-{number}"), "LAMP").await.has(202);
    }
    assert_eq!(system.settled(5).await.len(), 4);
    system.close_after([api]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn through_queues_a_slow_commit_is_no_attempt() {
    let system = with_stock("through_queues_a_slow_commit_is_no_attempt").await;
    system.expect_repeats();
    let worker = system.worker_with(IMPATIENT);
    let commands =
        [allocate("o-1", "LAMP", 1), allocate("o-2", "NO-SUCH-SKU", 1), allocate("o-3", "LAMP", 1)];
    system.sender.send_all(&commands).await;
    let lines = async || system.count("select count(*) from order_lines").await;
    wait_for("both lines are there", DRAINS_WITHIN, &2, lines).await;
    let rejected = "select count(*) from failed_messages where error = 'Invalid sku NO-SUCH-SKU'";
    wait_for("the third is rejected", DRAINS_WITHIN, &1, async || system.count(rejected).await).await;
    assert_eq!(system.count("select count(*) from failed_messages").await, 1);
    sqlx::raw_sql("drop trigger slow on order_lines").execute(&system.pool).await.unwrap();
    system.sender.send(&create_batch("b-2", "NO-SUCH-SKU", 100)).await;
    tokio::time::timeout(Duration::from_mins(2), system.settled(5)).await.unwrap();
    system.close_after([worker]).await;
}

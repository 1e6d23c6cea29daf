//! Commits that take longer than `database.timeout`: their outcome is unknown, and the response says so.

use serde_json::json;
use tokio::task::JoinSet;

use crate::harness::{Client, DRAINS_WITHIN, JSON, Response, TestSystem, allocate, create_batch, wait_for};

/// Every commit with new lines takes longer than the timeout.
const SLOW_COMMITS: &str = "create function slow_down() returns trigger language plpgsql as $$
     begin perform pg_sleep(3); return null; end $$;
     create constraint trigger slow after insert on order_lines deferrable initially deferred
     for each row execute function slow_down()";
const SHORT_TIMEOUT: &[(&str, &str)] = &[("ALLOCATION__DATABASE__TIMEOUT", "1s")];

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
async fn a_request_with_a_slow_commit_is_never_answered_with_not_processed() {
    let system = with_stock("a_request_with_a_slow_commit_is_never_answered_with_not_processed").await;
    let (api, client) = system.api("api,relay", SHORT_TIMEOUT).await;
    let mut requests = JoinSet::new();
    for number in 0..4 {
        let client = client.clone();
        requests.spawn(async move { post(&client, &format!("o-{number}"), "LAMP").await });
    }
    let (mut handled_or_unknown, mut unknown) = (0, 0);
    for response in requests.join_all().await {
        match response.status {
            202 => handled_or_unknown += 1,
            503 if response.message().contains("may have been processed") => {
                unknown += 1;
                handled_or_unknown += 1;
            }
            // The request waited for another transaction and did not commit.
            503 => assert!(response.message().contains("was not processed"), "{response:?}"),
            _ => panic!("{response:?}"),
        }
    }
    assert!(unknown > 0, "no commit had an unknown outcome");
    let ended =
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'";
    wait_for("every commit has ended", DRAINS_WITHIN, &0, async || system.count(ended).await).await;
    let lines = system.count("select count(*) from order_lines").await;
    assert_eq!(lines, handled_or_unknown, "a command was handled although the response says that it was not");
    sqlx::raw_sql("drop trigger slow on order_lines").execute(&system.pool).await.unwrap();
    for number in 0..4 {
        post(&client, &format!("o-{number}"), "LAMP").await.expect_status(202);
    }
    assert_eq!(system.settled(5).await.len(), 4);
    system.close_after([api]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_with_a_slow_commit_has_no_failed_attempt() {
    let system = with_stock("a_message_with_a_slow_commit_has_no_failed_attempt").await;
    system.expect_redeliveries();
    let worker = system.worker_with(SHORT_TIMEOUT);
    let commands =
        [allocate("o-1", "LAMP", 1), allocate("o-2", "NO-SUCH-SKU", 1), allocate("o-3", "LAMP", 1)];
    system.sender.send_all(&commands).await;
    let lines = async || system.count("select count(*) from order_lines").await;
    wait_for("both lines are allocated", DRAINS_WITHIN, &2, lines).await;
    let rejected = "select count(*) from failed_messages where error = 'Invalid sku NO-SUCH-SKU'";
    wait_for("the other line is rejected", DRAINS_WITHIN, &1, async || system.count(rejected).await).await;
    assert_eq!(system.count("select count(*) from failed_messages").await, 1);
    sqlx::raw_sql("drop trigger slow on order_lines").execute(&system.pool).await.unwrap();
    system.sender.send(&create_batch("b-2", "NO-SUCH-SKU", 100)).await;
    system.settled(5).await;
    system.close_after([worker]).await;
}

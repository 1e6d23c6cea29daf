//! Copies that the relay publishes for retries, and forged ones.

use std::time::Duration;

use lapin::{
    options::{BasicGetOptions, BasicRejectOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::json;

use crate::harness::{DRAINS_WITHIN, TestSystem, allocate, create_batch, properties, wait_for, wait_until};

use super::{DEAD, LINES, ONE_ATTEMPT, dead_letters, dead_line, execute};

/// Two copies of one retry are in the queue. The first fails, and the message is discarded before the second is delivered.
#[tokio::test(flavor = "multi_thread")]
async fn an_outdated_copy_of_a_discarded_message_is_not_handled() {
    let system = TestSystem::new("an_outdated_copy_of_a_discarded_message_is_not_handled").await;
    dead_line(&system).await;
    let relay = system.start(&["run", "--only", "relay"], &[]);
    for copies in 1..=2 {
        dead_letters(&system, &["retry", "--status", if copies == 1 { "dead" } else { "retrying" }]).await;
        wait_for("a copy is in the queue", DRAINS_WITHIN, &copies, async || system.ready("orders").await)
            .await;
        let published = async || system.count("select count(published_at) from failed_messages").await;
        wait_for("the relay has recorded its publication", DRAINS_WITHIN, &1, published).await;
        execute(&system, "update failed_messages set published_at = now() - interval '2 minutes'").await;
    }
    // The second copy is held by this channel until the first has failed and the product exists.
    let orders = system.named("orders");
    let second = {
        let first = system.channel().basic_get(orders.as_str().into(), BasicGetOptions::default());
        let first = first.await.unwrap().unwrap();
        let second = system.channel().basic_get(orders.as_str().into(), BasicGetOptions::default());
        let second = second.await.unwrap().unwrap();
        first.reject(BasicRejectOptions { requeue: true }).await.unwrap();
        second
    };
    let worker = system.worker_with(ONE_ATTEMPT);
    wait_for("the first copy has failed", DRAINS_WITHIN, &1, async || system.count(DEAD).await).await;
    dead_letters(&system, &["discard", "--all", "--why", "the customer cancelled"]).await;
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    system.wait_handled(1).await;
    second.reject(BasicRejectOptions { requeue: true }).await.unwrap();
    system.sender.send(&allocate("behind", "LAMP", 1)).await;
    system.settled(2).await;
    assert_eq!(system.count("select count(*) from order_lines where orderid = 'o-1'").await, 0);
    assert_eq!(system.count("select count(*) from failed_messages where status = 'discarded'").await, 1);
    system.close_after([worker, relay]).await;
}

/// A mark without the secret of the failed message is ignored.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_with_a_forged_retry_mark_is_handled_like_any_other() {
    let system = TestSystem::new("a_message_with_a_forged_retry_mark_is_handled_like_any_other").await;
    dead_line(&system).await;
    let id: i64 = sqlx::query_scalar("select id from failed_messages").fetch_one(&system.pool).await.unwrap();
    dead_letters(&system, &["discard", "--all", "--why", "a test"]).await;
    let worker = system.worker();
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    system.wait_handled(1).await;
    let marks = [format!("{id}.1.00000000-0000-0000-0000-000000000000"), "999999.1.x".into(), "text".into()];
    for (number, mark) in marks.iter().enumerate() {
        let mut headers = FieldTable::default();
        headers.insert("x-allocation-retry".into(), AMQPValue::LongString(mark.as_str().into()));
        let marked = properties("allocate", &format!("marked-{number}")).with_headers(headers);
        let body = json!({ "orderid": format!("marked-{number}"), "sku": "LAMP", "qty": 1 }).to_string();
        system.sender.publish_raw("allocate", marked, body.as_bytes()).await;
    }
    system.settled(4).await;
    assert_eq!(system.count(LINES).await, 3);
    assert_eq!(system.count("select count(*) from failed_messages where status = 'discarded'").await, 1);
    system.close_after([worker]).await;
}

/// Messages with one id are dead in two queues, and one queue is missing. The retry of the other message is published once.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_queue_defers_only_its_own_retries() {
    let system = TestSystem::new("a_missing_queue_defers_only_its_own_retries").await;
    system.expect_dead(2);
    let worker = system.worker_with(ONE_ATTEMPT);
    for kind in ["allocate", "create_batch"] {
        system.sender.publish_raw(kind, properties(kind, "same"), b"{}").await;
    }
    wait_for("both are dead", DRAINS_WITHIN, &2, async || system.count(DEAD).await).await;
    worker.terminate().await;
    let relay = system.start(&["run", "--only", "relay"], &[]);
    let is_leader = async || relay.log().contains("relay became leader");
    wait_until("the relay has declared the queues", DRAINS_WITHIN, is_leader).await;
    let stock = system.named("stock");
    system.channel().queue_delete(stock.into(), QueueDeleteOptions::default()).await.unwrap();
    dead_letters(&system, &["retry", "--all"]).await;
    let held = "select count(*) from failed_messages where held_because is not null";
    wait_for("one is deferred", DRAINS_WITHIN, &1, async || system.count(held).await).await;
    // Each try sets the time of the next.
    let due = "select (extract(epoch from due_at) * 1000)::bigint from failed_messages where held_because is not null";
    let first = system.count(due).await;
    let tried_again = async || system.count(due).await > first;
    wait_until("the publication is tried again", Duration::from_secs(30), tried_again).await;
    assert_eq!(system.ready("orders").await, 1, "copies of one retry");
    system.cli(&["topology"]).await.exits(0);
    relay.terminate().await;
    let worker = system.worker_with(ONE_ATTEMPT);
    wait_for("both are dead again", DRAINS_WITHIN, &2, async || system.count(DEAD).await).await;
    system.close_after([worker]).await;
}

/// A retry that is not handled is published again after 1, 2, 4 … hours.
#[tokio::test(flavor = "multi_thread")]
async fn retries_without_a_worker_are_published_at_growing_intervals() {
    let system = TestSystem::new("retries_without_a_worker_are_published_at_growing_intervals").await;
    dead_line(&system).await;
    dead_letters(&system, &["retry", "--all"]).await;
    let mut copies = 0;
    for hour in 0..60 {
        let published = "select (published_at is not null)::int::bigint from failed_messages";
        // A new leader purges at once, which makes lost retries due again.
        let relay = system.start(&["run", "--only", "relay"], &[]);
        wait_for("the retry is published", DRAINS_WITHIN, &1, async || system.count(published).await).await;
        let is_leader = async || relay.log().contains("relay became leader");
        wait_until("a relay is the leader", DRAINS_WITHIN, is_leader).await;
        relay.terminate().await;
        copies = system.ready("orders").await;
        assert!(copies <= 7, "{copies} copies after {hour} hours");
        let hour_later = "update failed_messages set published_at = published_at - interval '61 minutes',
                          due_at = due_at - interval '61 minutes'";
        sqlx::query(hour_later).execute(&system.pool).await.unwrap();
        if hour == 20 {
            break; // Long enough to observe the growth.
        }
    }
    assert!((4..=6).contains(&copies), "{copies} copies after 20 hours");
    let worker = system.worker();
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    system.settled(2).await;
    assert_eq!(system.count(LINES).await, 1);
    system.close_after([worker]).await;
}

//! Failed messages that their sender sends again, and their redeliveries.

use lapin::options::{BasicGetOptions, BasicRejectOptions};

use crate::harness::{Command, DRAINS_WITHIN, TestSystem, allocate, create_batch, wait_for};

use super::{ATTEMPTS, DEAD, LINES, RETRYING, ROWS, dead_letters, dead_line, deliver_once, execute};

/// Sends a failed message again, redelivers it, and waits until it is retrying and then handled.
async fn sent_again_and_redelivered(system: TestSystem, line: &Command) {
    system.sender.send(line).await;
    deliver_once(&system, "orders").await;
    let worker = system.worker();
    wait_for("the message is retrying", DRAINS_WITHIN, &1, async || system.count(RETRYING).await).await;
    worker.terminate().await;
    assert_eq!((system.count(ROWS).await, system.count(ATTEMPTS).await), (1, 2));

    let worker = system.worker();
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    system.settled(2).await;
    assert_eq!(system.count(LINES).await, 1, "the line is missing");
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_message_that_is_sent_again_and_redelivered_is_retried() {
    let system = TestSystem::new("a_discarded_message_that_is_sent_again_and_redelivered_is_retried").await;
    let line = dead_line(&system).await;
    dead_letters(&system, &["discard", "--all", "--why", "a test"]).await;
    sent_again_and_redelivered(system, &line).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_is_sent_again_and_redelivered_is_retried() {
    let system = TestSystem::new("a_dead_letter_that_is_sent_again_and_redelivered_is_retried").await;
    let line = dead_line(&system).await;
    sent_again_and_redelivered(system, &line).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resolved_message_that_is_sent_again_and_redelivered_is_retried() {
    let system = TestSystem::new("a_resolved_message_that_is_sent_again_and_redelivered_is_retried").await;
    let line = dead_line(&system).await;
    execute(&system, "update failed_messages set status = 'resolved', reason = null, ended_at = now()").await;
    sent_again_and_redelivered(system, &line).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_message_that_the_broker_dead_letters_is_dead_again() {
    let name = "a_discarded_message_that_the_broker_dead_letters_is_dead_again";
    let system = TestSystem::new(name).await;
    system.expect_dead(1);
    let line = dead_line(&system).await;
    dead_letters(&system, &["discard", "--all", "--why", "a test"]).await;
    system.sender.send(&line).await;
    let orders = system.named("orders");
    let taken = system.channel().basic_get(orders.into(), BasicGetOptions::default()).await.unwrap().unwrap();
    taken.reject(BasicRejectOptions { requeue: false }).await.unwrap();
    wait_for("the broker has dead-lettered the message", DRAINS_WITHIN, &1, async || {
        system.ready("orders.dlq").await
    })
    .await;
    deliver_once(&system, "orders.dlq").await;
    let archive = system.start(&["run", "--only", "archive"], &[]);
    wait_for("the message is dead again", DRAINS_WITHIN, &1, async || system.count(DEAD).await).await;
    system.close_after([archive]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redelivery_of_a_retrying_message_is_not_an_attempt() {
    let system = TestSystem::new("a_redelivery_of_a_retrying_message_is_not_an_attempt").await;
    let slow = [("ALLOCATION__RETRY__INITIAL_INTERVAL", "1h"), ("ALLOCATION__RETRY__MAX_INTERVAL", "1h")];
    let line = allocate("o-1", "LAMP", 1);
    let worker = system.worker_with(&slow);
    system.sender.send(&line).await;
    wait_for("the message is retrying", DRAINS_WITHIN, &1, async || system.count(RETRYING).await).await;
    worker.terminate().await;
    for redelivered in [false, true] {
        system.sender.send(&line).await;
        if redelivered {
            deliver_once(&system, "orders").await;
        }
        let worker = system.worker_with(&slow);
        system.sender.send(&create_batch(&format!("b-{redelivered}"), "OTHER", 1)).await;
        let batches = "select count(*) from batches";
        let count = 1 + i64::from(redelivered);
        wait_for("there is stock", DRAINS_WITHIN, &count, async || system.count(batches).await).await;
        system.sender.send(&allocate(&format!("after-{redelivered}"), "OTHER", 1)).await;
        let after = "select count(*) from order_lines where sku = 'OTHER'";
        wait_for("the message behind it is handled", DRAINS_WITHIN, &count, async || {
            system.count(after).await
        })
        .await;
        system.wait_published().await;
        worker.terminate().await;
        assert_eq!((system.count(ROWS).await, system.count(ATTEMPTS).await), (1, 1));
    }
    let row: (i32, i64, String) = sqlx::query_as("select attempts, generation, status from failed_messages")
        .fetch_one(&system.pool)
        .await
        .unwrap();
    assert_eq!(row, (1, 1, "retrying".into()));
    execute(&system, "delete from failed_messages").await;
    system.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_message_that_is_sent_again_and_handled_is_resolved() {
    let system = TestSystem::new("a_discarded_message_that_is_sent_again_and_handled_is_resolved").await;
    let line = dead_line(&system).await;
    dead_letters(&system, &["discard", "--all", "--why", "a test"]).await;
    let worker = system.worker();
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    system.wait_handled(1).await;
    system.sender.send(&line).await;
    system.settled(2).await;
    assert_eq!(system.count("select count(*) from failed_messages where status = 'resolved'").await, 1);
    system.close_after([worker]).await;
}

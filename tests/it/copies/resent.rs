//! Failed messages that their sender sends again, and redeliveries of them.

use lapin::options::{BasicGetOptions, BasicRejectOptions};

use crate::harness::{Command, DRAINS_WITHIN, World, allocate, create_batch, wait_for};

use super::{ATTEMPTS, DEAD, LINES, RETRYING, ROWS, dead_letters, dead_line, deliver_once, execute};

/// Sends a failed message again, redelivers it, and waits until it is retrying and then handled.
async fn sent_again_and_redelivered(world: World, line: &Command) {
    world.sender.send(line).await;
    deliver_once(&world, "orders").await;
    let worker = world.worker();
    wait_for("it is retrying", DRAINS_WITHIN, &1, async || world.count(RETRYING).await).await;
    worker.terminate().await;
    assert_eq!((world.count(ROWS).await, world.count(ATTEMPTS).await), (1, 2));

    let worker = world.worker();
    world.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    world.settled(2).await;
    assert_eq!(world.count(LINES).await, 1, "the order is lost");
    world.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_message_that_is_sent_again_and_redelivered_is_retried() {
    let world = World::new("a_discarded_message_that_is_sent_again_and_redelivered_is_retried").await;
    let line = dead_line(&world).await;
    dead_letters(&world, &["discard", "--all", "--why", "a test"]).await;
    sent_again_and_redelivered(world, &line).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_is_sent_again_and_redelivered_is_retried() {
    let world = World::new("a_dead_letter_that_is_sent_again_and_redelivered_is_retried").await;
    let line = dead_line(&world).await;
    sent_again_and_redelivered(world, &line).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resolved_message_that_is_sent_again_and_redelivered_is_retried() {
    let world = World::new("a_resolved_message_that_is_sent_again_and_redelivered_is_retried").await;
    let line = dead_line(&world).await;
    execute(&world, "update failed_messages set status = 'resolved', reason = null, ended_at = now()").await;
    sent_again_and_redelivered(world, &line).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_message_that_the_broker_dead_letters_is_dead_again() {
    let name = "a_discarded_message_that_the_broker_dead_letters_is_dead_again";
    let world = World::new(name).await;
    world.expect_dead(1);
    let line = dead_line(&world).await;
    dead_letters(&world, &["discard", "--all", "--why", "a test"]).await;
    world.sender.send(&line).await;
    let orders = world.named("orders");
    let taken = world.channel().basic_get(orders.into(), BasicGetOptions::default()).await.unwrap().unwrap();
    taken.reject(BasicRejectOptions { requeue: false }).await.unwrap();
    wait_for("the broker dead-lettered it", DRAINS_WITHIN, &1, async || world.ready("orders.dlq").await)
        .await;
    deliver_once(&world, "orders.dlq").await;
    let archive = world.start(&["run", "--only", "archive"], &[]);
    wait_for("it is dead again", DRAINS_WITHIN, &1, async || world.count(DEAD).await).await;
    world.close_after([archive]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redelivery_of_a_retrying_message_is_not_an_attempt() {
    let world = World::new("a_redelivery_of_a_retrying_message_is_not_an_attempt").await;
    let slow = [("ALLOCATION__RETRY__INITIAL_INTERVAL", "1h"), ("ALLOCATION__RETRY__MAX_INTERVAL", "1h")];
    let line = allocate("o-1", "LAMP", 1);
    let worker = world.worker_with(&slow);
    world.sender.send(&line).await;
    wait_for("it is retrying", DRAINS_WITHIN, &1, async || world.count(RETRYING).await).await;
    worker.terminate().await;
    for redelivered in [false, true] {
        world.sender.send(&line).await;
        if redelivered {
            deliver_once(&world, "orders").await;
        }
        let worker = world.worker_with(&slow);
        world.sender.send(&create_batch(&format!("b-{redelivered}"), "OTHER", 1)).await;
        let batches = "select count(*) from batches";
        let count = 1 + i64::from(redelivered);
        wait_for("there is stock", DRAINS_WITHIN, &count, async || world.count(batches).await).await;
        world.sender.send(&allocate(&format!("after-{redelivered}"), "OTHER", 1)).await;
        let after = "select count(*) from order_lines where sku = 'OTHER'";
        wait_for("the message behind it is handled", DRAINS_WITHIN, &count, async || {
            world.count(after).await
        })
        .await;
        worker.terminate().await;
        assert_eq!((world.count(ROWS).await, world.count(ATTEMPTS).await), (1, 1));
    }
    let row: (i32, i64, String) = sqlx::query_as("select attempts, generation, status from failed_messages")
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert_eq!(row, (1, 1, "retrying".into()));
    execute(&world, "delete from failed_messages").await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_message_that_is_sent_again_and_handled_is_resolved() {
    let world = World::new("a_discarded_message_that_is_sent_again_and_handled_is_resolved").await;
    let line = dead_line(&world).await;
    dead_letters(&world, &["discard", "--all", "--why", "a test"]).await;
    let worker = world.worker();
    world.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    world.wait_handled(1).await;
    world.sender.send(&line).await;
    world.settled(2).await;
    assert_eq!(world.count("select count(*) from failed_messages where status = 'resolved'").await, 1);
    world.close_after([worker]).await;
}

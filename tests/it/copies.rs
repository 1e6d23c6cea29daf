//! Copies of one message: sent again, redelivered, published twice for one retry. Each message has exactly one outcome.

use std::time::Duration;

use lapin::{
    options::{BasicGetOptions, BasicRejectOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::json;

use crate::harness::{
    Command, DRAINS_WITHIN, Raw, World, allocate, create_batch, deallocate, properties, wait_for, wait_until,
};

const ONE_ATTEMPT: &[(&str, &str)] = &[("ALLOCATION__RETRY__MAX_ATTEMPTS", "1")];
const DEAD: &str = "select count(*) from failed_messages where status = 'dead'";
const RETRYING: &str = "select count(*) from failed_messages where status = 'retrying'";
const ROWS: &str = "select count(*) from failed_messages";
const ATTEMPTS: &str = "select count(*) from failed_attempts";
const LINES: &str = "select count(*) from order_lines";

async fn execute(world: &World, statements: &'static str) {
    sqlx::raw_sql(statements).execute(&world.pool).await.unwrap();
}

async fn dead_letters(world: &World, arguments: &[&str]) {
    world.cli(&[&["--json", "dead-letters"][..], arguments].concat()).await.exits(0);
}

/// A line whose SKU is unknown: dead after one attempt.
async fn dead_line(world: &World) -> Command {
    let line = allocate("o-1", "LAMP", 1);
    let worker = world.worker_with(ONE_ATTEMPT);
    world.sender.send(&line).await;
    wait_for("it is dead", DRAINS_WITHIN, &1, async || world.count(DEAD).await).await;
    worker.terminate().await;
    line
}

/// The next delivery of a queue's first message is a redelivery.
async fn deliver_once(world: &World, queue: &str) {
    let taken = world.channel().basic_get(world.named(queue).into(), BasicGetOptions::default());
    taken.await.unwrap().unwrap().reject(BasicRejectOptions { requeue: true }).await.unwrap();
}

/// Sends a message again of which the ledger has a row, redelivers it, and has it fail: it is recorded.
async fn sent_again_and_redelivered(world: World, line: &Command) {
    world.sender.send(line).await;
    deliver_once(&world, "orders").await;
    let worker = world.worker();
    wait_for("it is being retried", DRAINS_WITHIN, &1, async || world.count(RETRYING).await).await;
    worker.terminate().await;
    assert_eq!((world.count(ROWS).await, world.count(ATTEMPTS).await), (1, 2));

    let worker = world.worker();
    world.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    world.settled(2).await;
    assert_eq!(world.count(LINES).await, 1, "the order is lost");
    world.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_sent_again_after_a_discard_and_redelivered_is_not_lost() {
    let world = World::new("a_message_sent_again_after_a_discard_and_redelivered_is_not_lost").await;
    let line = dead_line(&world).await;
    dead_letters(&world, &["discard", "--all", "--why", "a test"]).await;
    sent_again_and_redelivered(world, &line).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_sent_again_after_its_death_and_redelivered_is_tried_again() {
    let world = World::new("a_message_sent_again_after_its_death_and_redelivered_is_tried_again").await;
    let line = dead_line(&world).await;
    sent_again_and_redelivered(world, &line).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_sent_again_after_the_inbox_forgot_it_and_redelivered_is_not_lost() {
    let world =
        World::new("a_message_sent_again_after_the_inbox_forgot_it_and_redelivered_is_not_lost").await;
    let line = dead_line(&world).await;
    execute(&world, "update failed_messages set status = 'resolved', reason = null, ended_at = now()").await;
    sent_again_and_redelivered(world, &line).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_dead_lettered_by_the_broker_after_a_discard_and_redelivered_is_not_lost() {
    let name = "a_message_dead_lettered_by_the_broker_after_a_discard_and_redelivered_is_not_lost";
    let world = World::new(name).await;
    world.expect_dead(1);
    let line = dead_line(&world).await;
    dead_letters(&world, &["discard", "--all", "--why", "a test"]).await;
    world.sender.send(&line).await;
    let orders = world.named("orders");
    let taken = world.channel().basic_get(orders.into(), BasicGetOptions::default()).await.unwrap().unwrap();
    taken.reject(BasicRejectOptions { requeue: false }).await.unwrap();
    wait_for("it is set aside", DRAINS_WITHIN, &1, async || world.ready("orders.dlq").await).await;
    deliver_once(&world, "orders.dlq").await;
    let archive = world.start(&["run", "--only", "archive"], &[]);
    wait_for("it is dead again", DRAINS_WITHIN, &1, async || world.count(DEAD).await).await;
    world.close_after([archive]).await;
}

/// While its first copy is being retried, a redelivery of the message changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_redelivered_message_that_is_being_retried_is_no_second_attempt() {
    let world = World::new("a_redelivered_message_that_is_being_retried_is_no_second_attempt").await;
    let slow = [("ALLOCATION__RETRY__INITIAL_INTERVAL", "1h"), ("ALLOCATION__RETRY__MAX_INTERVAL", "1h")];
    let line = allocate("o-1", "LAMP", 1);
    let worker = world.worker_with(&slow);
    world.sender.send(&line).await;
    wait_for("it is being retried", DRAINS_WITHIN, &1, async || world.count(RETRYING).await).await;
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
        wait_for("what is behind it is handled", DRAINS_WITHIN, &count, async || world.count(after).await)
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

/// Two copies of one retry: the first fails for good and is discarded; the second must not be handled.
#[tokio::test(flavor = "multi_thread")]
async fn an_outdated_copy_of_a_discarded_message_is_not_handled() {
    let world = World::new("an_outdated_copy_of_a_discarded_message_is_not_handled").await;
    dead_line(&world).await;
    let relay = world.start(&["run", "--only", "relay"], &[]);
    for copies in 1..=2 {
        dead_letters(&world, &["retry", "--status", if copies == 1 { "dead" } else { "retrying" }]).await;
        wait_for("a copy is there", DRAINS_WITHIN, &copies, async || world.ready("orders").await).await;
        let noted = async || world.count("select count(published_at) from failed_messages").await;
        wait_for("the relay has noted it", DRAINS_WITHIN, &1, noted).await;
        execute(&world, "update failed_messages set published_at = now() - interval '2 minutes'").await;
    }
    // The first copy fails: all that is behind it waits until the product exists.
    let orders = world.named("orders");
    let second = {
        let first = world.channel().basic_get(orders.as_str().into(), BasicGetOptions::default());
        let first = first.await.unwrap().unwrap();
        let second = world.channel().basic_get(orders.as_str().into(), BasicGetOptions::default());
        let second = second.await.unwrap().unwrap();
        first.reject(BasicRejectOptions { requeue: true }).await.unwrap();
        second
    };
    let worker = world.worker_with(ONE_ATTEMPT);
    wait_for("the first copy has failed", DRAINS_WITHIN, &1, async || world.count(DEAD).await).await;
    dead_letters(&world, &["discard", "--all", "--why", "the customer cancelled"]).await;
    world.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    world.wait_handled(1).await;
    second.reject(BasicRejectOptions { requeue: true }).await.unwrap();
    world.sender.send(&allocate("behind", "LAMP", 1)).await;
    world.settled(2).await;
    assert_eq!(world.count("select count(*) from order_lines where orderid = 'o-1'").await, 0);
    assert_eq!(world.count("select count(*) from failed_messages where status = 'discarded'").await, 1);
    world.close_after([worker, relay]).await;
}

/// What its sender sent again after a discard is handled, and the ledger says so.
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

/// A mark that nobody has published means nothing: the message is one from a sender.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_retry_mark_gains_and_loses_nothing() {
    let world = World::new("a_forged_retry_mark_gains_and_loses_nothing").await;
    let line = dead_line(&world).await;
    let id: i64 = sqlx::query_scalar("select id from failed_messages").fetch_one(&world.pool).await.unwrap();
    dead_letters(&world, &["discard", "--all", "--why", "a test"]).await;
    let worker = world.worker();
    world.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    world.wait_handled(1).await;
    let marks = [format!("{id}.1.00000000-0000-0000-0000-000000000000"), "999999.1.x".into(), "text".into()];
    for (number, mark) in marks.iter().enumerate() {
        let mut headers = FieldTable::default();
        headers.insert("x-allocation-retry".into(), AMQPValue::LongString(mark.as_str().into()));
        let marked = properties("allocate", &format!("marked-{number}")).with_headers(headers);
        let body = json!({ "orderid": format!("marked-{number}"), "sku": "LAMP", "qty": 1 }).to_string();
        world.sender.publish_raw("allocate", marked, body.as_bytes()).await;
    }
    world.settled(4).await;
    assert_eq!(world.count(LINES).await, 3);
    assert_eq!(world.count("select count(*) from failed_messages where status = 'discarded'").await, 1);
    drop(line);
    world.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_types_under_one_id_are_two_messages_in_the_ledger() {
    let world = World::new("two_types_under_one_id_are_two_messages_in_the_ledger").await;
    world.expect_dead(5);
    let worker = world.worker_with(ONE_ATTEMPT);
    let body = br#"{"orderid": "o-1", "sku": "NO-SUCH-SKU", "qty": 1}"#;
    for kind in ["allocate", "deallocate"] {
        world.sender.publish_raw(kind, properties(kind, "one id"), body).await;
    }
    for kind in ["allocate", "deallocate", "alocate"] {
        let without_id = lapin::BasicProperties::default().with_type(kind.into());
        world.sender.publish_raw("allocate", without_id, body).await;
    }
    wait_for("all are dead", DRAINS_WITHIN, &5, async || world.count(DEAD).await).await;
    let kinds: Vec<String> =
        sqlx::query_scalar("select type from failed_messages where message_id is not null")
            .fetch_all(&world.pool)
            .await
            .unwrap();
    assert_eq!(kinds.len(), 2);
    world.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_was_handled_with_another_type_is_a_conflict() {
    let world = World::new("an_id_that_was_handled_with_another_type_is_a_conflict").await;
    world.expect_dead(1);
    let worker = world.worker();
    world.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    world.wait_handled(1).await;
    let body = br#"{"orderid": "o-1", "sku": "LAMP", "qty": 1}"#;
    world.sender.publish_raw("allocate", properties("allocate", "one id"), body).await;
    world.wait_handled(2).await;
    world.sender.publish_raw("deallocate", properties("deallocate", "one id"), body).await;
    wait_for("it is dead", DRAINS_WITHIN, &1, async || world.count(DEAD).await).await;
    assert_eq!(
        world.count("select count(*) from failed_messages where reason = 'message_id_conflict'").await,
        1
    );
    assert_eq!(world.count(LINES).await, 1);
    // A row that an earlier version wrote does not say the type, and fits any.
    execute(&world, "update inbox set type = null").await;
    world.sender.publish_raw("allocate", properties("allocate", "one id"), body).await;
    world.settled(2).await;
    world.close_after([worker]).await;
}

/// A dead letter without a type has the routing key that it was sent with.
#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_only_the_routing_key_says_survives_the_brokers_dead_lettering() {
    let name = "a_type_that_only_the_routing_key_says_survives_the_brokers_dead_lettering";
    let world = World::new(name).await;
    let (handled, not_handled) = (allocate("o-1", "LAMP", 1), allocate("o-2", "LAMP", 1));
    let worker = world.worker_with(&[("ALLOCATION__WORKER__MAX_BATCH", "1")]);
    world.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    world.wait_handled(1).await;
    let send = async |line: &Command| {
        let untyped = lapin::BasicProperties::default().with_message_id(line.message_id.as_str().into());
        world.sender.publish_raw("allocate", untyped, line.body.to_string().as_bytes()).await;
    };
    send(&handled).await;
    world.wait_handled(2).await;
    worker.terminate().await;
    for line in [&handled, &not_handled] {
        send(line).await;
        let orders = world.named("orders");
        let taken =
            world.channel().basic_get(orders.into(), BasicGetOptions::default()).await.unwrap().unwrap();
        taken.reject(BasicRejectOptions { requeue: false }).await.unwrap();
    }
    let everything = world.start(&["run", "--only", "worker,relay,archive"], &[]);
    wait_for("one is dead", DRAINS_WITHIN, &1, async || world.count(DEAD).await).await;
    wait_for("both are taken", DRAINS_WITHIN, &0, async || world.ready("orders.dlq").await).await;
    let rows: Vec<(String, String)> =
        sqlx::query_as("select type, message_id from failed_messages").fetch_all(&world.pool).await.unwrap();
    assert_eq!(rows, [("allocate".into(), not_handled.message_id.clone())], "the other one was handled");
    dead_letters(&world, &["retry", "--all"]).await;
    world.settled(3).await;
    assert_eq!(world.count(LINES).await, 2);
    world.close_after([everything]).await;
}

/// One id is dead in two queues, and one queue is gone: the retry of the other is published once.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_gone_holds_back_its_own_retries_only() {
    let world = World::new("a_queue_that_is_gone_holds_back_its_own_retries_only").await;
    world.expect_dead(2);
    let worker = world.worker_with(ONE_ATTEMPT);
    for kind in ["allocate", "create_batch"] {
        world.sender.publish_raw(kind, properties(kind, "same"), b"{}").await;
    }
    wait_for("both are dead", DRAINS_WITHIN, &2, async || world.count(DEAD).await).await;
    worker.terminate().await;
    let relay = world.start(&["run", "--only", "relay"], &[]);
    let leads = async || relay.log().contains("relay became leader");
    wait_until("the relay has declared the queues", DRAINS_WITHIN, leads).await;
    let stock = world.named("stock");
    world.channel().queue_delete(stock.into(), QueueDeleteOptions::default()).await.unwrap();
    dead_letters(&world, &["retry", "--all"]).await;
    let held = "select count(*) from failed_messages where held_because is not null";
    wait_for("one is held", DRAINS_WITHIN, &1, async || world.count(held).await).await;
    let tried_again = async || relay.log().matches("the queue does not exist").count() >= 2;
    wait_until("it is tried again", Duration::from_secs(30), tried_again).await;
    assert_eq!(world.ready("orders").await, 1, "copies of one retry");
    world.cli(&["topology"]).await.exits(0);
    relay.terminate().await;
    let worker = world.worker_with(ONE_ATTEMPT);
    wait_for("both are dead again", DRAINS_WITHIN, &2, async || world.count(DEAD).await).await;
    world.close_after([worker]).await;
}

/// A retry that is not handled is sent again after one hour, two more, four more …
#[tokio::test(flavor = "multi_thread")]
async fn retries_that_no_worker_takes_do_not_pile_up() {
    let world = World::new("retries_that_no_worker_takes_do_not_pile_up").await;
    let line = dead_line(&world).await;
    dead_letters(&world, &["retry", "--all"]).await;
    let mut copies = 0;
    for hour in 0..60 {
        let published = "select (published_at is not null)::int::bigint from failed_messages";
        // A new leader looks for old rows at once.
        let relay = world.start(&["run", "--only", "relay"], &[]);
        wait_for("it is published", DRAINS_WITHIN, &1, async || world.count(published).await).await;
        let swept = async || relay.log().contains("relay became leader");
        wait_until("a relay leads", DRAINS_WITHIN, swept).await;
        relay.terminate().await;
        copies = world.ready("orders").await;
        assert!(copies <= 7, "{copies} copies after {hour} hours");
        let hour_later = "update failed_messages set published_at = published_at - interval '61 minutes',
                          due_at = due_at - interval '61 minutes'";
        sqlx::query(hour_later).execute(&world.pool).await.unwrap();
        if hour == 20 {
            break; // Doubling is seen by then.
        }
    }
    assert!((4..=6).contains(&copies), "{copies} copies after 20 hours");
    drop(line);
    let worker = world.worker();
    world.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    world.settled(2).await;
    assert_eq!(world.count(LINES).await, 1);
    world.close_after([worker]).await;
}

/// In one unit of work: a copy of the first message shares its fate; one that has its id and differs is a conflict.
#[tokio::test(flavor = "multi_thread")]
async fn messages_of_one_id_in_one_unit_of_work_have_one_effect() {
    let world = World::new("messages_of_one_id_in_one_unit_of_work_have_one_effect").await;
    world.expect_dead(1);
    let line = allocate("o-1", "LAMP", 1).with_id("one");
    let unknown = allocate("o-2", "NO-SUCH-SKU", 1).with_id("two");
    world.sender.send_all(&[create_batch("b-1", "LAMP", 10)]).await;
    let worker = world.worker();
    world.wait_handled(1).await;
    worker.terminate().await;
    let other = deallocate("o-1", "LAMP").with_id("one");
    let cancelled =
        [line.clone(), unknown.clone(), line.clone(), unknown, other, deallocate("o-1", "LAMP"), line];
    world.sender.send_all(&cancelled).await;
    let slow = [("ALLOCATION__RETRY__INITIAL_INTERVAL", "1h"), ("ALLOCATION__RETRY__MAX_INTERVAL", "1h")];
    let worker = world.worker_with(&slow);
    world.wait_handled(3).await;
    wait_for("the conflict is dead", DRAINS_WITHIN, &1, async || world.count(DEAD).await).await;
    wait_for("all are taken", DRAINS_WITHIN, &0, async || world.ready("orders").await).await;
    assert_eq!((world.count(RETRYING).await, world.count(ATTEMPTS).await), (1, 2));
    assert_eq!(world.count(LINES).await, 0);
    let events = async || world.count("select count(*) from outbox").await;
    wait_for("events are published", DRAINS_WITHIN, &0, events).await;
    execute(&world, "delete from failed_messages where status = 'retrying'").await;
    world.close_after([worker]).await;
}

/// A message among notifications and one sent to the default exchange are not confused.
#[tokio::test(flavor = "multi_thread")]
async fn one_id_in_two_queues_is_handled_in_each() {
    let world = World::new("one_id_in_two_queues_is_handled_in_each").await;
    let worker = world.worker();
    world.sender.send(&create_batch("b-1", "LAMP", 10).with_id("same")).await;
    world.wait_handled(1).await;
    let line = allocate("o-1", "LAMP", 1).with_id("same");
    let direct = Raw {
        exchange: String::new(),
        routing_key: world.named("orders"),
        properties: properties(line.kind, &line.message_id),
        body: line.body.to_string().into_bytes(),
    };
    world.sender.publish_all(&[direct]).await;
    world.settled(2).await;
    assert_eq!(world.count(LINES).await, 1);
    world.close_after([worker]).await;
}

//! The identity of a message: its queue, id, type and body.

use lapin::options::{BasicGetOptions, BasicRejectOptions};

use crate::harness::{
    Command, DRAINS_WITHIN, RawMessage, TestSystem, allocate, create_batch, deallocate, properties, wait_for,
};

use super::{ATTEMPTS, DEAD, LINES, ONE_ATTEMPT, RETRYING, dead_letters, execute};

#[tokio::test(flavor = "multi_thread")]
async fn messages_with_one_id_and_two_types_are_two_failed_messages() {
    let system = TestSystem::new("messages_with_one_id_and_two_types_are_two_failed_messages").await;
    system.expect_dead(5);
    let worker = system.worker_with(ONE_ATTEMPT);
    let body = br#"{"orderid": "o-1", "sku": "NO-SUCH-SKU", "qty": 1}"#;
    for kind in ["allocate", "deallocate"] {
        system.sender.publish_raw(kind, properties(kind, "one id"), body).await;
    }
    for kind in ["allocate", "deallocate", "alocate"] {
        let without_id = lapin::BasicProperties::default().with_type(kind.into());
        system.sender.publish_raw("allocate", without_id, body).await;
    }
    wait_for("all are dead", DRAINS_WITHIN, &5, async || system.count(DEAD).await).await;
    let kinds: Vec<String> =
        sqlx::query_scalar("select type from failed_messages where message_id is not null")
            .fetch_all(&system.pool)
            .await
            .unwrap();
    assert_eq!(kinds.len(), 2);
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_was_handled_with_another_type_is_a_conflict() {
    let system = TestSystem::new("an_id_that_was_handled_with_another_type_is_a_conflict").await;
    system.expect_dead(1);
    let worker = system.worker();
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    system.wait_handled(1).await;
    let body = br#"{"orderid": "o-1", "sku": "LAMP", "qty": 1}"#;
    system.sender.publish_raw("allocate", properties("allocate", "one id"), body).await;
    system.wait_handled(2).await;
    system.sender.publish_raw("deallocate", properties("deallocate", "one id"), body).await;
    wait_for("the message is dead", DRAINS_WITHIN, &1, async || system.count(DEAD).await).await;
    assert_eq!(
        system.count("select count(*) from failed_messages where reason = 'message_id_conflict'").await,
        1
    );
    assert_eq!(system.count(LINES).await, 1);
    // Rows of an earlier version have no type and match any.
    execute(&system, "update inbox set type = null").await;
    system.sender.publish_raw("allocate", properties("allocate", "one id"), body).await;
    system.settled(2).await;
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_without_a_type_keeps_its_routing_key_as_type_when_the_broker_dead_letters_it() {
    let name = "a_message_without_a_type_keeps_its_routing_key_as_type_when_the_broker_dead_letters_it";
    let system = TestSystem::new(name).await;
    let (handled, not_handled) = (allocate("o-1", "LAMP", 1), allocate("o-2", "LAMP", 1));
    let worker = system.worker_with(&[("ALLOCATION__WORKER__MAX_BATCH", "1")]);
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    system.wait_handled(1).await;
    let send = async |line: &Command| {
        let untyped = lapin::BasicProperties::default().with_message_id(line.message_id.as_str().into());
        system.sender.publish_raw("allocate", untyped, line.body.to_string().as_bytes()).await;
    };
    send(&handled).await;
    system.wait_handled(2).await;
    worker.terminate().await;
    for line in [&handled, &not_handled] {
        send(line).await;
        let orders = system.named("orders");
        let taken =
            system.channel().basic_get(orders.into(), BasicGetOptions::default()).await.unwrap().unwrap();
        taken.reject(BasicRejectOptions { requeue: false }).await.unwrap();
    }
    let process = system.start(&["run", "--only", "worker,relay,archive"], &[]);
    wait_for("one is dead", DRAINS_WITHIN, &1, async || system.count(DEAD).await).await;
    wait_for("both are consumed", DRAINS_WITHIN, &0, async || system.ready("orders.dlq").await).await;
    let rows: Vec<(String, String)> =
        sqlx::query_as("select type, message_id from failed_messages").fetch_all(&system.pool).await.unwrap();
    assert_eq!(rows, [("allocate".into(), not_handled.message_id.clone())], "the other message was handled");
    dead_letters(&system, &["retry", "--all"]).await;
    system.settled(3).await;
    assert_eq!(system.count(LINES).await, 2);
    system.close_after([process]).await;
}

/// A copy has the outcome of the first message; another message with its id is a conflict.
#[tokio::test(flavor = "multi_thread")]
async fn messages_with_one_id_in_one_unit_of_work_have_one_effect() {
    let system = TestSystem::new("messages_with_one_id_in_one_unit_of_work_have_one_effect").await;
    system.expect_dead(1);
    let line = allocate("o-1", "LAMP", 1).with_id("one");
    let unknown = allocate("o-2", "NO-SUCH-SKU", 1).with_id("two");
    system.sender.send_all(&[create_batch("b-1", "LAMP", 10)]).await;
    let worker = system.worker();
    system.wait_handled(1).await;
    worker.terminate().await;
    let other = deallocate("o-1", "LAMP").with_id("one");
    let cancelled =
        [line.clone(), unknown.clone(), line.clone(), unknown, other, deallocate("o-1", "LAMP"), line];
    system.sender.send_all(&cancelled).await;
    let slow = [("ALLOCATION__RETRY__INITIAL_INTERVAL", "1h"), ("ALLOCATION__RETRY__MAX_INTERVAL", "1h")];
    let worker = system.worker_with(&slow);
    system.wait_handled(3).await;
    wait_for("the conflict is dead", DRAINS_WITHIN, &1, async || system.count(DEAD).await).await;
    wait_for("all are consumed", DRAINS_WITHIN, &0, async || system.ready("orders").await).await;
    assert_eq!((system.count(RETRYING).await, system.count(ATTEMPTS).await), (1, 2));
    assert_eq!(system.count(LINES).await, 0);
    let events = async || system.count("select count(*) from outbox").await;
    wait_for("events are published", DRAINS_WITHIN, &0, events).await;
    execute(&system, "delete from failed_messages where status = 'retrying'").await;
    system.close_after([worker]).await;
}

/// The second one is sent to its queue through the default exchange.
#[tokio::test(flavor = "multi_thread")]
async fn messages_with_one_id_in_two_queues_are_both_handled() {
    let system = TestSystem::new("messages_with_one_id_in_two_queues_are_both_handled").await;
    let worker = system.worker();
    system.sender.send(&create_batch("b-1", "LAMP", 10).with_id("same")).await;
    system.wait_handled(1).await;
    let line = allocate("o-1", "LAMP", 1).with_id("same");
    let direct = RawMessage {
        exchange: String::new(),
        routing_key: system.named("orders"),
        properties: properties(line.kind, &line.message_id),
        body: line.body.to_string().into_bytes(),
    };
    system.sender.publish_all(&[direct]).await;
    system.settled(2).await;
    assert_eq!(system.count(LINES).await, 1);
    system.close_after([worker]).await;
}

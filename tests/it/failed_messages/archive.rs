//! Messages that the broker dead-letters, and the export of dead letters.

use lapin::{
    options::{BasicGetOptions, BasicNackOptions, BasicRejectOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::json;

use crate::harness::{DRAINS_WITHIN, TestSystem, allocate, properties, wait_until};

use super::{ONE_ATTEMPT, dead, dead_letters};

#[tokio::test(flavor = "multi_thread")]
async fn an_export_has_each_dead_letter_as_a_json_line() {
    let system = TestSystem::new("an_export_has_each_dead_letter_as_a_json_line").await;
    system.expect_dead(3);
    let worker = system.worker_with(ONE_ATTEMPT);
    let line = allocate("o-1", "NO-SUCH-SKU", 1);
    system.sender.send(&line).await;
    system.sender.publish_raw("allocate", properties("allocate", "text"), b"no JSON").await;
    system.sender.publish_raw("allocate", properties("allocate", "bytes"), b"\xff\x00\xfe").await;
    dead(&system, 3).await;

    let exported = dead_letters(&system, &["export"]).await.exits(0).json_lines();
    let body_of = |id: &str| {
        let found = exported.iter().find(|letter| letter["message_id"] == id);
        found.map(|letter| letter["body"].clone())
    };
    assert_eq!(exported.len(), 3);
    assert_eq!(body_of(&line.message_id), Some(json!(line.body.to_string())));
    assert_eq!(body_of("text"), Some(json!("no JSON")));
    assert_eq!(body_of("bytes"), Some(json!({ "base64": "/wD+" })));
    for letter in &exported {
        assert_eq!(letter["history"].as_array().map(Vec::len), Some(1), "{letter}");
        assert_eq!(letter["properties"]["type"], "allocate", "{letter}");
    }
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_the_broker_dead_lettered_is_recorded() {
    let system = TestSystem::new("a_message_that_the_broker_dead_lettered_is_recorded").await;
    system.expect_dead(1);
    let line = allocate("o-1", "LAMP", 1);
    system.sender.send(&line).await;
    let orders = system.named("orders").into();
    let taken = system.channel().basic_get(orders, BasicGetOptions::default()).await.unwrap().unwrap();
    assert!(taken.reject(BasicRejectOptions { requeue: false }).await.unwrap());

    let archive = system.start(&["run", "--only", "archive"], &[]);
    dead(&system, 1).await;
    let row: (String, String, String, Vec<u8>) =
        sqlx::query_as("select queue, message_id, reason, body from failed_messages")
            .fetch_one(&system.pool)
            .await
            .unwrap();
    let body = line.body.to_string().into_bytes();
    assert_eq!(row, ("orders".into(), line.message_id, "rejected".into(), body));
    system.close_after([archive]).await;
}

/// Only the newest entry of `x-death` counts. This message is sent with an entry of another queue.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_above_the_delivery_limit_is_dead_for_that_reason() {
    let system = TestSystem::new("a_message_above_the_delivery_limit_is_dead_for_that_reason").await;
    system.expect_dead(1);
    let line = allocate("o-1", "LAMP", 1);
    let sent = properties(line.kind, &line.message_id).with_headers(rejected_elsewhere());
    system.sender.publish_raw(line.kind, sent, line.body.to_string().as_bytes()).await;
    let exceed_the_limit = async || {
        let orders = system.named("orders").into();
        if let Some(taken) = system.channel().basic_get(orders, BasicGetOptions::default()).await.unwrap() {
            let again = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
            taken.nack(again).await.unwrap();
        }
        system.ready("orders.dlq").await == 1
    };
    wait_until("the broker dead-letters the message", DRAINS_WITHIN, exceed_the_limit).await;

    let archive = system.start(&["run", "--only", "archive"], &[]);
    dead(&system, 1).await;
    let letter = dead_letters(&system, &["list"]).await.exits(0).json()[0].take();
    assert_eq!(
        (&letter["message_id"], &letter["reason"]),
        (&json!(line.message_id), &json!("delivery_limit"))
    );
    system.close_after([archive]).await;
}

/// The header of a message that was rejected in another queue.
fn rejected_elsewhere() -> FieldTable {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut death = FieldTable::default();
    death.insert("reason".into(), text("rejected"));
    death.insert("queue".into(), text("elsewhere"));
    death.insert("exchange".into(), text(""));
    death.insert("count".into(), AMQPValue::LongLongInt(1));
    death.insert("routing-keys".into(), AMQPValue::FieldArray(vec![text("elsewhere")].into()));
    let mut headers = FieldTable::default();
    headers.insert("x-death".into(), AMQPValue::FieldArray(vec![AMQPValue::FieldTable(death)].into()));
    headers
}

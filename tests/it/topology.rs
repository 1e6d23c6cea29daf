//! Exchanges and queues have the documented properties and arguments: the broker accepts a second declaration only with the
//! same ones.

use lapin::{
    ExchangeKind,
    options::{ExchangeDeclareOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

use crate::harness::TestSystem;

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn table(entries: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert((*name).into(), value.clone());
    }
    table
}

/// The documented arguments of a queue.
fn arguments(system: &TestSystem, queue: &str) -> FieldTable {
    if queue.strip_suffix(".dlq").is_some() {
        let limit = AMQPValue::LongLongInt(1_000_000);
        return table(&[("x-queue-type", text("quorum")), ("x-delivery-limit", limit)]);
    }
    table(&[
        ("x-queue-type", text("quorum")),
        ("x-dead-letter-exchange", text(&system.named("dead-letters"))),
        ("x-dead-letter-routing-key", text(&system.named(&format!("{queue}.dlq")))),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
        ("x-delivery-limit", AMQPValue::LongLongInt(50)),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn exchanges_and_queues_have_the_documented_arguments() {
    let system = TestSystem::new("exchanges_and_queues_have_the_documented_arguments").await;
    for exchange in ["commands", "events", "dead-letters"] {
        let (channel, name) = (system.new_channel().await, system.named(exchange).into());
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let topic = ExchangeKind::Topic;
        let same = channel.exchange_declare(name, topic, durable, FieldTable::default()).await;
        same.unwrap_or_else(|error| panic!("the exchange {exchange} differs: {error}"));
    }
    for queue in ["orders", "orders.dlq", "stock", "stock.dlq", "notifications", "notifications.dlq"] {
        let (channel, name) = (system.new_channel().await, system.named(queue).into());
        let (durable, arguments) = (QueueDeclareOptions::durable(), arguments(&system, queue));
        let same = channel.queue_declare(name, durable, arguments).await;
        same.unwrap_or_else(|error| panic!("the queue {queue} differs: {error}"));
    }
    system.close().await;
}

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
    if queue.ends_with(".unreadable") {
        let limit = AMQPValue::LongLongInt(1_000_000);
        return table(&[("x-queue-type", text("quorum")), ("x-delivery-limit", limit)]);
    }
    let (next, limit) = match queue.strip_suffix(".dlq") {
        Some(main) => (format!("{main}.unreadable"), 100),
        None => (format!("{queue}.dlq"), 50),
    };
    table(&[
        ("x-queue-type", text("quorum")),
        ("x-dead-letter-exchange", text(&system.named("dead-letters"))),
        ("x-dead-letter-routing-key", text(&system.named(&next))),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
        ("x-delivery-limit", AMQPValue::LongLongInt(limit)),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn exchanges_and_queues_have_the_documented_arguments() {
    let system = TestSystem::new("exchanges_and_queues_have_the_documented_arguments").await;
    let exchanges = [
        ("commands", ExchangeKind::Topic),
        ("events", ExchangeKind::Topic),
        ("dead-letters", ExchangeKind::Topic),
        ("retries", ExchangeKind::Direct),
    ];
    for (exchange, kind) in exchanges {
        let (channel, name) = (system.new_channel().await, system.named(exchange).into());
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let same = channel.exchange_declare(name, kind, durable, FieldTable::default()).await;
        same.unwrap_or_else(|error| panic!("the exchange {exchange} differs: {error}"));
    }
    let queues = ["orders", "stock", "notifications"];
    let queues =
        queues.iter().flat_map(|queue| ["", ".dlq", ".unreadable"].map(|end| format!("{queue}{end}")));
    for queue in queues {
        let queue = queue.as_str();
        let (channel, name) = (system.new_channel().await, system.named(queue).into());
        let (durable, arguments) = (QueueDeclareOptions::durable(), arguments(&system, queue));
        let same = channel.queue_declare(name, durable, arguments).await;
        same.unwrap_or_else(|error| panic!("the queue {queue} differs: {error}"));
    }
    system.close().await;
}

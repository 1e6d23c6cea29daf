//! Exchanges and queues as the contract names them.

use async_trait::async_trait;
use lapin::{
    Connection, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

use crate::ports::{
    admin::{DeclareResult, QueueDepth, Topology},
    error::BrokerError,
    queue::QueueName,
};

use super::{CONNECT_WITHIN, RabbitConfig, channel, with_timeout};

/// The last resort against a message that breaks whoever is handed it. Every crash counts for everything that was
/// prefetched, so it is far above what an innocent message may see.
const DELIVERY_LIMIT: i64 = 50;
/// Dead letters are never dropped for having been looked at. No limit at all would mean 20 from RabbitMQ 4 on.
const DEAD_LETTER_DELIVERY_LIMIT: i64 = 1_000_000;
/// Where each queue's messages come from: exchange and routing keys.
const BINDINGS: [(QueueName, &str, &[&str]); 3] = [
    (QueueName::Orders, "commands", &["allocate", "deallocate"]),
    (QueueName::Stock, "commands", &["create_batch", "change_batch_quantity"]),
    (QueueName::Notifications, "events", &["out_of_stock"]),
];

/// Exchanges and queues on a broker.
pub struct RabbitTopology(pub RabbitConfig);

#[async_trait]
impl Topology for RabbitTopology {
    async fn declare(&self) -> Result<Vec<DeclareResult>, BrokerError> {
        declare(&self.0).await
    }

    async fn queue_depths(&self) -> Result<Vec<QueueDepth>, BrokerError> {
        queue_depths(&self.0).await
    }
}

async fn declare(broker: &RabbitConfig) -> Result<Vec<DeclareResult>, BrokerError> {
    let connection = broker.connect("topology").await?;
    let mut declared = Vec::new();
    for exchange in ["commands", "events", "dead-letters"] {
        declared.push(declare_one(&connection, &broker.named(exchange), &Declaration::Exchange).await?);
    }
    for (queue, exchange, keys) in BINDINGS {
        let name = broker.queue(queue);
        let dead = broker.dead_letter_queue(queue);
        declared.push(declare_one(&connection, &dead, &Declaration::Queue(dead_letter_arguments())).await?);
        bind(&connection, &dead, &broker.named("dead-letters"), &dead).await?;
        declared.push(declare_one(&connection, &name, &Declaration::Queue(arguments(broker, &dead))).await?);
        for key in keys {
            if !bind(&connection, &name, &broker.named(exchange), key).await? {
                declared.push(DeclareResult::NotPermitted(format!("binding of {name} to {key}")));
            }
        }
    }
    close(&connection).await;
    Ok(declared)
}

async fn queue_depths(broker: &RabbitConfig) -> Result<Vec<QueueDepth>, BrokerError> {
    let connection = broker.connect("status").await?;
    let mut depths = Vec::new();
    for queue in QueueName::ALL {
        for name in [broker.queue(queue), broker.dead_letter_queue(queue)] {
            depths.push(depth(&connection, name).await?);
        }
    }
    close(&connection).await;
    Ok(depths)
}

/// Ends a connection in order, if it still is one: the client would wait for ever for the answer of a broker that is gone.
async fn close(connection: &Connection) {
    let _ = with_timeout(CONNECT_WITHIN, connection.close(200, "done".into())).await;
}

async fn depth(connection: &Connection, name: String) -> Result<QueueDepth, BrokerError> {
    let channel = channel(connection).await?;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let state = channel.queue_declare(name.as_str().into(), passive, FieldTable::default());
    let state = with_timeout(CONNECT_WITHIN, state).await?;
    Ok(QueueDepth { name, ready: state.message_count(), consumers: state.consumer_count() })
}

fn arguments(broker: &RabbitConfig, dead: &str) -> FieldTable {
    table([
        ("x-queue-type", text("quorum")),
        ("x-dead-letter-exchange", text(&broker.named("dead-letters"))),
        ("x-dead-letter-routing-key", text(dead)),
        ("x-dead-letter-strategy", text("at-least-once")),
        // Without it the strategy above falls back to at-most-once, silently.
        ("x-overflow", text("reject-publish")),
        ("x-delivery-limit", AMQPValue::LongLongInt(DELIVERY_LIMIT)),
    ])
}

fn dead_letter_arguments() -> FieldTable {
    let limit = AMQPValue::LongLongInt(DEAD_LETTER_DELIVERY_LIMIT);
    table([("x-queue-type", text("quorum")), ("x-delivery-limit", limit)])
}

fn table<const N: usize>(entries: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in entries {
        table.insert(key.into(), value);
    }
    table
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

/// What can be declared.
enum Declaration {
    Exchange,
    Queue(FieldTable),
}

/// A refused declaration closes its channel, so each has its own.
async fn declare_with_timeout(
    connection: &Connection,
    name: &str,
    thing: &Declaration,
    passive: bool,
) -> Result<(), lapin::Error> {
    let channel = connection.create_channel().await?;
    match thing {
        Declaration::Exchange => {
            let options =
                ExchangeDeclareOptions { durable: true, passive, ..ExchangeDeclareOptions::default() };
            channel
                .exchange_declare(name.into(), ExchangeKind::Topic, options, FieldTable::default())
                .await?;
        }
        Declaration::Queue(arguments) => {
            let options = QueueDeclareOptions { durable: true, passive, ..QueueDeclareOptions::default() };
            channel.queue_declare(name.into(), options, arguments.clone()).await?;
        }
    }
    channel.close(200, "done".into()).await
}

async fn declare_one(
    connection: &Connection,
    name: &str,
    thing: &Declaration,
) -> Result<DeclareResult, BrokerError> {
    let refused = match tokio::time::timeout(
        CONNECT_WITHIN,
        declare_with_timeout(connection, name, thing, false),
    )
    .await
    {
        Ok(Ok(())) => return Ok(DeclareResult::Matches(name.to_owned())),
        Ok(Err(error)) => error,
        Err(_) => {
            return Err(BrokerError::Unavailable(
                format!("{name} was not declared within {CONNECT_WITHIN:?}").into(),
            ));
        }
    };
    match super::reply_code(&refused) {
        Some(406) => Ok(DeclareResult::Mismatch(name.to_owned(), super::reply_text(&refused))),
        // A worker's user need not have the right to declare: it is enough that it is there.
        Some(403) => {
            let there =
                with_timeout(CONNECT_WITHIN, declare_with_timeout(connection, name, thing, true)).await;
            there.map(|()| DeclareResult::NotPermitted(name.to_owned()))
        }
        _ => Err(super::broker_error(refused)),
    }
}

/// False if this user may not bind.
async fn bind(connection: &Connection, queue: &str, exchange: &str, key: &str) -> Result<bool, BrokerError> {
    let channel = channel(connection).await?;
    let (queue, exchange, key) = (queue.into(), exchange.into(), key.into());
    let bound = channel.queue_bind(queue, exchange, key, QueueBindOptions::default(), FieldTable::default());
    match tokio::time::timeout(CONNECT_WITHIN, bound).await {
        Ok(Ok(())) => Ok(true),
        Ok(Err(error)) if super::reply_code(&error) == Some(403) => Ok(false),
        Ok(Err(error)) => Err(super::broker_error(error)),
        Err(_) => {
            Err(BrokerError::Unavailable(format!("a binding was not made within {CONNECT_WITHIN:?}").into()))
        }
    }
}

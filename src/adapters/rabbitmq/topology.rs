//! Declares the exchanges and queues of the contract, and reads their depths.

use async_trait::async_trait;
use lapin::{
    Connection, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

use crate::ports::{
    admin::{DeclareResult, QueueDepth, Topology},
    checks::InspectedObject,
    error::BrokerError,
    queue::QueueName,
    routing::{Route, routes_to},
};

use super::connection::{
    CONNECT_TIMEOUT, RETRIES, RabbitConfig, broker_error, open_channel, reply_code, reply_text, with_timeout,
};

/// The last protection against a message that crashes every consumer. A crash counts as a delivery of every prefetched
/// message, so the limit is far above the number of deliveries of a harmless message.
const DELIVERY_LIMIT: i64 = 50;
/// Above it a dead letter cannot be recorded: it is unreadable. Only crashes of the archive count as deliveries of others.
const DEAD_LETTER_DELIVERY_LIMIT: i64 = 100;
/// Deliveries never drop an unreadable message. Without a limit, RabbitMQ 4 would apply its default of 20.
const UNREADABLE_DELIVERY_LIMIT: i64 = 1_000_000;
/// The exchanges, without the namespace.
const EXCHANGES: [(&str, ExchangeKind); 4] = [
    ("commands", ExchangeKind::Topic),
    ("events", ExchangeKind::Topic),
    (DEAD_LETTERS, ExchangeKind::Topic),
    (RETRIES, ExchangeKind::Direct),
];
const DEAD_LETTERS: &str = "dead-letters";

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
    for (name, declaration) in declarations(broker) {
        declared.push(declare_one(&connection, &name, &declaration).await?);
    }
    for queue in QueueName::ALL {
        let name = broker.queue(queue);
        let dead = broker.dead_letter_queue(queue);
        let unreadable = broker.unreadable_queue(queue);
        let dead_letters = [&dead, &unreadable].map(|name| (name, DEAD_LETTERS, name.as_str()));
        let routes = routes_to(queue).map(|Route { kind, exchange, .. }| (&name, *exchange, *kind));
        for (name, exchange, key) in
            dead_letters.into_iter().chain([(&name, RETRIES, name.as_str())]).chain(routes)
        {
            if !bind(&connection, name, &broker.named(exchange), key).await? {
                declared.push(DeclareResult::NotPermitted(format!("binding of {name} to {key}")));
            }
        }
    }
    close(&connection).await;
    Ok(declared)
}

/// The exchanges and the queues, in the order of their declaration.
fn declarations(broker: &RabbitConfig) -> Vec<(String, Declaration)> {
    let exchanges = EXCHANGES.map(|(exchange, kind)| (broker.named(exchange), Declaration::Exchange(kind)));
    let queues = QueueName::ALL.into_iter().flat_map(|queue| {
        let dead = broker.dead_letter_queue(queue);
        let unreadable = broker.unreadable_queue(queue);
        let main = main_arguments(broker, queue, &dead);
        let of_dead = arguments(broker, &unreadable, DEAD_LETTER_DELIVERY_LIMIT);
        [(unreadable, unreadable_arguments()), (dead, of_dead), (broker.queue(queue), main)]
    });
    let queues = queues.map(|(name, arguments)| (name, Declaration::Queue(arguments)));
    exchanges.into_iter().chain(queues).collect()
}

/// Compares the exchanges and the queues that exist. What exists with the same arguments can be declared without a change.
pub(super) async fn inspect_topology(
    connection: &Connection,
    broker: &RabbitConfig,
) -> Result<Vec<InspectedObject>, BrokerError> {
    let mut inspected = Vec::new();
    for (name, declaration) in declarations(broker) {
        let passive = declare_with_timeout(connection, &name, &declaration, true);
        let object = match tokio::time::timeout(CONNECT_TIMEOUT, passive).await {
            Ok(Err(error)) if reply_code(&error) == Some(404) => InspectedObject::Missing(name),
            Ok(Ok(())) => InspectedObject::Exists(declare_one(connection, &name, &declaration).await?),
            Ok(Err(error)) => return Err(broker_error(error)),
            Err(_) => return Err(BrokerError::Unavailable(format!("{name}: no answer").into())),
        };
        inspected.push(object);
    }
    Ok(inspected)
}

async fn queue_depths(broker: &RabbitConfig) -> Result<Vec<QueueDepth>, BrokerError> {
    let connection = broker.connect("status").await?;
    let mut depths = Vec::new();
    for queue in QueueName::ALL {
        for name in [broker.queue(queue), broker.dead_letter_queue(queue), broker.unreadable_queue(queue)] {
            depths.push(depth(&connection, name).await?);
        }
    }
    close(&connection).await;
    Ok(depths)
}

/// Closes a connection. The client library waits for the broker's reply without a limit.
async fn close(connection: &Connection) {
    let _ = with_timeout(CONNECT_TIMEOUT, connection.close(200, "done".into())).await;
}

async fn depth(connection: &Connection, name: String) -> Result<QueueDepth, BrokerError> {
    let channel = open_channel(connection).await?;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let state = channel.queue_declare(name.as_str().into(), passive, FieldTable::default());
    let state = with_timeout(CONNECT_TIMEOUT, state).await?;
    Ok(QueueDepth { name, ready: state.message_count(), consumers: state.consumer_count() })
}

/// The arguments of a queue that dead-letters to another one.
fn arguments(broker: &RabbitConfig, dead: &str, delivery_limit: i64) -> FieldTable {
    table([
        ("x-queue-type", text("quorum")),
        ("x-dead-letter-exchange", text(&broker.named(DEAD_LETTERS))),
        ("x-dead-letter-routing-key", text(dead)),
        ("x-dead-letter-strategy", text("at-least-once")),
        // Required by the strategy: without it the broker falls back to at-most-once without an error.
        ("x-overflow", text("reject-publish")),
        ("x-delivery-limit", AMQPValue::LongLongInt(delivery_limit)),
    ])
}

fn main_arguments(broker: &RabbitConfig, queue: QueueName, dead: &str) -> FieldTable {
    let mut arguments = arguments(broker, dead, DELIVERY_LIMIT);
    // The order of notifications has no meaning.
    if broker.single_active_consumer && queue != QueueName::Notifications {
        arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    }
    arguments
}

fn unreadable_arguments() -> FieldTable {
    let limit = AMQPValue::LongLongInt(UNREADABLE_DELIVERY_LIMIT);
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

/// An exchange or a queue with its arguments.
enum Declaration {
    Exchange(ExchangeKind),
    Queue(FieldTable),
}

/// Declares on a channel of its own: the broker closes the channel of a refused declaration.
async fn declare_with_timeout(
    connection: &Connection,
    name: &str,
    thing: &Declaration,
    passive: bool,
) -> Result<(), lapin::Error> {
    let channel = connection.create_channel().await?;
    match thing {
        Declaration::Exchange(kind) => {
            let options =
                ExchangeDeclareOptions { durable: true, passive, ..ExchangeDeclareOptions::default() };
            channel.exchange_declare(name.into(), kind.clone(), options, FieldTable::default()).await?;
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
    let error =
        match tokio::time::timeout(CONNECT_TIMEOUT, declare_with_timeout(connection, name, thing, false))
            .await
        {
            Ok(Ok(())) => return Ok(DeclareResult::Matches(name.to_owned())),
            Ok(Err(error)) => error,
            Err(_) => {
                return Err(BrokerError::Unavailable(
                    format!("{name} was not declared within {CONNECT_TIMEOUT:?}").into(),
                ));
            }
        };
    match reply_code(&error) {
        Some(406) => Ok(DeclareResult::Mismatch(name.to_owned(), reply_text(&error))),
        // A worker's user needs no permission to declare what exists.
        Some(403) => {
            let exists =
                with_timeout(CONNECT_TIMEOUT, declare_with_timeout(connection, name, thing, true)).await;
            exists.map(|()| DeclareResult::NotPermitted(name.to_owned()))
        }
        _ => Err(broker_error(error)),
    }
}

/// False if this user has no permission to bind.
async fn bind(connection: &Connection, queue: &str, exchange: &str, key: &str) -> Result<bool, BrokerError> {
    let channel = open_channel(connection).await?;
    let (queue, exchange, key) = (queue.into(), exchange.into(), key.into());
    let bound = channel.queue_bind(queue, exchange, key, QueueBindOptions::default(), FieldTable::default());
    match tokio::time::timeout(CONNECT_TIMEOUT, bound).await {
        Ok(Ok(())) => Ok(true),
        Ok(Err(error)) if reply_code(&error) == Some(403) => Ok(false),
        Ok(Err(error)) => Err(broker_error(error)),
        Err(_) => {
            Err(BrokerError::Unavailable(format!("a binding was not made within {CONNECT_TIMEOUT:?}").into()))
        }
    }
}

//! The order in which a quorum queue redelivers unacknowledged messages. The shutdown of a consumer depends on it: a broker
//! version with another order fails here.

use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicPublishOptions,
        BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};
use tokio::time::timeout;

use crate::harness::{amqp_url, properties, unique};

const MESSAGES: usize = 600;
const PREFETCH: u16 = 200;
/// Deliveries that are acknowledged immediately before the others are returned.
const ACKNOWLEDGED: u64 = 100;
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// How a consumer returns unacknowledged deliveries.
#[derive(Clone, Copy, Debug)]
enum Return {
    /// The connection is closed, without cancel and nack. The consumer does this at a shutdown.
    CloseConnection,
    /// `basic.cancel`, then one `basic.nack` for all.
    CancelAndNack,
}

async fn connect() -> (Connection, Channel) {
    let connection = Connection::connect(&amqp_url(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

async fn fill(channel: &Channel, queue: &str) {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments).await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let mut confirms = Vec::with_capacity(MESSAGES);
    for number in 0..MESSAGES {
        let properties = properties("numbered", &number.to_string());
        let publish =
            channel.basic_publish("".into(), queue.into(), BasicPublishOptions::default(), b"", properties);
        confirms.push(publish.await.unwrap());
    }
    for confirm in confirms {
        assert!(confirm.await.unwrap().is_ack());
    }
}

async fn consume(channel: &Channel, queue: &str, prefetch: u16) -> lapin::Consumer {
    channel.basic_qos(prefetch, BasicQosOptions::default()).await.unwrap();
    let consume = BasicConsumeOptions::default();
    channel.basic_consume(queue.into(), "".into(), consume, FieldTable::default()).await.unwrap()
}

async fn next(consumer: &mut lapin::Consumer) -> lapin::message::Delivery {
    timeout(ANSWERS_WITHIN, consumer.next()).await.unwrap().unwrap().unwrap()
}

/// Takes [`PREFETCH`] deliveries, acknowledges the first `acknowledged` ones, and returns the others.
async fn take_and_return(queue: &str, acknowledged: u64, how: Return) {
    let (connection, channel) = connect().await;
    let mut consumer = consume(&channel, queue, PREFETCH).await;
    for _ in 0..PREFETCH {
        next(&mut consumer).await;
    }
    if acknowledged > 0 {
        channel.basic_ack(acknowledged, BasicAckOptions { multiple: true }).await.unwrap();
    }
    if matches!(how, Return::CancelAndNack) {
        channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await.unwrap();
        channel.basic_nack(0, BasicNackOptions { multiple: true, requeue: true }).await.unwrap();
    }
    connection.close(200, "stopped".into()).await.unwrap();
}

/// The number of messages that are delivered directly after a later one, and the number of messages in the queue.
async fn count_inversions(queue: &str, how: Return, acknowledged: u64) -> (usize, usize) {
    let (connection, channel) = connect().await;
    fill(&channel, queue).await;
    take_and_return(queue, acknowledged, how).await;
    let left = MESSAGES - usize::try_from(acknowledged).unwrap();
    let mut consumer = consume(&channel, queue, 0).await;
    let mut numbers: Vec<usize> = Vec::with_capacity(left);
    for _ in 0..left {
        let delivery = next(&mut consumer).await;
        numbers.push(delivery.properties.message_id().as_ref().unwrap().as_str().parse().unwrap());
    }
    channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
    connection.close(200, "done".into()).await.unwrap();
    let inversions = numbers.windows(2).filter(|pair| pair[0] > pair[1]).count();
    numbers.dedup();
    (inversions, numbers.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_connection_returns_deliveries_in_their_order() {
    for acknowledged in [0, ACKNOWLEDGED] {
        let queue = format!("it.{}.order", unique());
        let (inversions, left) = count_inversions(&queue, Return::CloseConnection, acknowledged).await;
        assert_eq!(inversions, 0, "after {acknowledged} acknowledgements");
        assert_eq!(left, MESSAGES - usize::try_from(acknowledged).unwrap());
    }
}

/// Not asserted: the consumer does not depend on the result.
#[tokio::test(flavor = "multi_thread")]
async fn cancel_and_nack_are_measured_for_comparison() {
    for acknowledged in [0, ACKNOWLEDGED] {
        let queue = format!("it.{}.order", unique());
        let (inversions, _) = count_inversions(&queue, Return::CancelAndNack, acknowledged).await;
        println!(
            "cancel and nack after {acknowledged} acknowledgements: {inversions} inversions in {MESSAGES}"
        );
    }
}

//! Messages with properties that the client library cannot decode: they cost little, are kept and reported, and hold up
//! nothing.

use std::time::{Duration, Instant};

use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{
        BasicGetOptions, BasicPublishOptions, BasicRejectOptions, QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use url::Url;

use crate::harness::{
    Command, DRAINS_WITHIN, SOON, TestSystem, allocate, amqp_url, create_batch, properties, wait_for,
    wait_until,
};

/// The client library of the tests sends only UTF-8. A proxy replaces this text by bytes that are not, and back.
const TEXT: &[u8] = b"NOT-UTF-8";
const BYTES: &[u8] = b"\xff\xfe\xff\xfe\xff\xfe\xff\xfe\xff";

/// A connection whose properties may have bytes that are not UTF-8.
async fn connect_through_proxy() -> Connection {
    let mut url = Url::parse(&amqp_url()).unwrap();
    let broker = (url.host_str().unwrap().to_owned(), url.port().unwrap_or(5672));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    url.set_host(Some("127.0.0.1")).unwrap();
    url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let (from_client, to_client) = client.into_split();
        let (from_broker, to_broker) = TcpStream::connect(broker).await.unwrap().into_split();
        tokio::join!(copy(from_client, to_broker, TEXT, BYTES), copy(from_broker, to_client, BYTES, TEXT));
    });
    Connection::connect(url.as_str(), ConnectionProperties::default()).await.unwrap()
}

/// Copies until the end, with one text in place of another of the same length.
async fn copy(
    mut source: impl AsyncRead + Unpin,
    mut target: impl AsyncWrite + Unpin,
    replaced: &[u8],
    replacement: &[u8],
) {
    let mut kept = Vec::new();
    loop {
        let read = source.read_buf(&mut kept).await.unwrap_or_default();
        while let Some(at) = kept.windows(replaced.len()).position(|window| window == replaced) {
            kept[at..at + replaced.len()].copy_from_slice(replacement);
        }
        let begins = |length: &usize| kept.ends_with(&replaced[..*length]);
        let partial = (1..replaced.len()).rev().find(begins).filter(|_| read > 0).unwrap_or_default();
        let rest = kept.split_off(kept.len() - partial);
        if target.write_all(&kept).await.is_err() || read == 0 {
            return;
        }
        kept = rest;
    }
}

fn text() -> &'static str {
    std::str::from_utf8(TEXT).unwrap()
}

fn undecodable(message_id: &str) -> BasicProperties {
    properties("allocate", message_id).with_app_id(text().into())
}

async fn publish(channel: &Channel, exchange: &str, key: &str, properties: BasicProperties) {
    let body = br#"{"orderid": "o-bad", "sku": "LAMP", "qty": 1}"#;
    let options = BasicPublishOptions::default();
    channel.basic_publish(exchange.into(), key.into(), options, body, properties).await.unwrap();
    // The broker has routed it when it answers the next request.
    channel.confirm_select(lapin::options::ConfirmSelectOptions::default()).await.unwrap();
}

fn orders(count: usize) -> Vec<Command> {
    (0..count).map(|number| allocate(&format!("o-{number}"), "LAMP", 1)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_undecodable_messages_delay_three_hundred_commands_by_less_than_three_seconds() {
    let system =
        TestSystem::new("ten_undecodable_messages_delay_three_hundred_commands_by_less_than_three_seconds")
            .await;
    let (process, client) = system.api("worker,relay,archive,api", &[]).await;
    system.sender.send(&create_batch("b-1", "LAMP", 1000)).await;
    system.wait_handled(1).await;
    let connection = connect_through_proxy().await;
    let channel = connection.create_channel().await.unwrap();
    for number in 0..10 {
        publish(&channel, &system.named("commands"), "allocate", undecodable(&format!("bad-{number}"))).await;
    }
    let begin = Instant::now();
    system.sender.send_all(&orders(300)).await;
    system.wait_handled(301).await;
    let elapsed = begin.elapsed();
    assert!(elapsed < Duration::from_secs(3), "{elapsed:?}");

    wait_for("they are kept", SOON, &10, async || system.ready("orders.unreadable").await).await;
    let name = system.named("orders.unreadable");
    let status = system.cli(&["status", "--json"]).await.exits(0).json();
    let queues = status["queues"].as_array().unwrap();
    assert!(queues.contains(&json!({ "name": name, "ready": 10, "consumers": 0 })), "{status}");
    let status = system.cli(&["status"]).await.exits(0);
    assert!(status.stdout().contains(&format!("{name}: 10 ready")), "{}", status.stdout());
    let reported = async || client.get("/health/ready").await.expect_status(200).json()["unreadable"].clone();
    wait_for("readiness reports them", SOON, &json!([{ "queue": name, "messages": 10 }]), reported).await;
    assert!(process.log().contains(&name), "{}", process.log());

    let kept = channel.basic_get(name.into(), BasicGetOptions::default()).await.unwrap().unwrap();
    assert_eq!(
        kept.properties.app_id().as_ref().unwrap().as_str(),
        text(),
        "the properties are those of the sender"
    );
    assert_eq!(kept.properties.message_id().as_ref().unwrap().as_str(), "bad-0", "in their order");
    let handled = system.count("select count(*) from failed_messages").await;
    assert_eq!(handled, 0, "no good message is dead");
    system.close_after([process]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undecodable_dead_letter_does_not_stop_the_archive() {
    let system = TestSystem::new("an_undecodable_dead_letter_does_not_stop_the_archive").await;
    system.expect_dead(1);
    let archive = system.start(&["run", "--only", "archive"], &[]);
    let connection = connect_through_proxy().await;
    let channel = connection.create_channel().await.unwrap();
    let dlq = system.named("orders.dlq");
    publish(&channel, &system.named("dead-letters"), &dlq, undecodable("bad")).await;
    publish(&channel, &system.named("dead-letters"), &dlq, properties("allocate", "good")).await;
    let recorded =
        async || system.count("select count(*) from failed_messages where message_id = 'good'").await;
    wait_for("the good one is recorded", SOON, &1, recorded).await;
    wait_for("the other is kept", SOON, &1, async || system.ready("orders.unreadable").await).await;
    let name = system.named("orders.unreadable");
    wait_until("the log names the queue", SOON, async || archive.log().contains(&name)).await;
    assert_eq!(archive.log().matches("cannot be decoded").count(), 1, "{}", archive.log());
    system.close_after([archive]).await;
}

/// A sender can have a message routed by its `CC` header whatever its routing key is. Dead-lettered, it has another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_with_an_undecodable_routing_key_is_dead_lettered() {
    let system = TestSystem::new("a_message_with_an_undecodable_routing_key_is_dead_lettered").await;
    system.expect_dead(1);
    let process = system.start(&["run", "--only", "worker,relay,archive"], &[]);
    let connection = connect_through_proxy().await;
    let channel = connection.create_channel().await.unwrap();
    let mut headers = FieldTable::default();
    let keys = vec![AMQPValue::LongString("allocate".into())];
    headers.insert("CC".into(), AMQPValue::FieldArray(keys.into()));
    let properties = properties("allocate", "bad").with_headers(headers);
    publish(&channel, &system.named("commands"), text(), properties).await;
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    system.sender.send_all(&orders(5)).await;
    system.wait_handled(6).await;
    let recorded =
        async || system.count("select count(*) from failed_messages where message_id = 'bad'").await;
    wait_for("it is recorded", DRAINS_WITHIN, &1, recorded).await;
    system.close_after([process]).await;
}

/// A dead-letter queue of an earlier version drops a rejected message.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_queue_without_dead_lettering_loses_no_undecodable_message() {
    let system =
        TestSystem::new("a_dead_letter_queue_without_dead_lettering_loses_no_undecodable_message").await;
    system.expect_dead(1);
    let dlq = system.named("orders.dlq");
    system.channel().queue_delete(dlq.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(1_000_000));
    let declared =
        system.channel().queue_declare(dlq.as_str().into(), QueueDeclareOptions::durable(), arguments);
    declared.await.unwrap();
    let topology = system.cli(&["topology"]).await.exits(1);
    assert!(topology.stdout().contains(&format!("{dlq}: mismatch")), "{}", topology.text());

    let archive = system.start(&["run", "--only", "archive"], &[]);
    let connection = connect_through_proxy().await;
    let channel = connection.create_channel().await.unwrap();
    publish(&channel, &system.named("dead-letters"), &dlq, undecodable("bad")).await;
    let named = async || archive.log().contains("cannot be decoded");
    wait_until("it is delivered", SOON, named).await;
    publish(&channel, &system.named("dead-letters"), &dlq, properties("allocate", "good")).await;
    let recorded =
        async || system.count("select count(*) from failed_messages where message_id = 'good'").await;
    wait_for("the good one is recorded", SOON, &1, recorded).await;
    assert!(archive.terminate().await.success());
    wait_for("the other returns", SOON, &1, async || system.ready("orders.dlq").await).await;
    let kept = channel.basic_get(dlq.as_str().into(), BasicGetOptions::default()).await.unwrap().unwrap();
    kept.reject(BasicRejectOptions { requeue: false }).await.unwrap();
    system.close().await;
}

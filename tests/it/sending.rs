//! `allocation send`: commands that a lost connection leaves unconfirmed, and commands that are refused.

use std::{
    collections::HashSet,
    fmt::Write as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use lapin::options::{BasicGetOptions, ExchangeDeleteOptions};

use crate::harness::{CliOutput, DRAINS_WITHIN, Proxy, TestSystem, amqp_url, wait_until};

/// A file of lines for the two queues in turn, with ids in their order.
fn file(system: &TestSystem, lines: usize) -> PathBuf {
    let mut text = String::new();
    for number in 0..lines {
        let body = if number % 2 == 0 {
            format!(
                r#"{{"type": "allocate", "message_id": "{number:06}", "body": {{"orderid": "o-{number}", "sku": "LAMP", "qty": 1}}}}"#
            )
        } else {
            format!(
                r#"{{"type": "create_batch", "message_id": "{number:06}", "body": {{"ref": "b-{number}", "sku": "LAMP", "qty": 1}}}}"#
            )
        };
        writeln!(text, "{body}").unwrap();
    }
    system.file("lines.jsonl", text.as_bytes())
}

/// Takes everything from a queue; the ids in the order of the queue, without repetitions.
async fn ids(system: &TestSystem, queue: &str) -> Vec<String> {
    let (mut ids, mut seen) = (Vec::new(), HashSet::new());
    let take = BasicGetOptions { no_ack: true };
    while let Some(message) = system.channel().basic_get(system.named(queue).into(), take).await.unwrap() {
        let id = message.properties.message_id().as_ref().unwrap().to_string();
        if seen.insert(id.clone()) {
            ids.push(id);
        }
    }
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn unconfirmed_commands_are_sent_again_with_the_same_ids_and_in_order() {
    const LINES: usize = 20_000;
    let system = TestSystem::new("unconfirmed_commands_are_sent_again_with_the_same_ids_and_in_order").await;
    let proxy = Proxy::to(&amqp_url(), 5672).await;
    let lines = file(&system, LINES);
    let arguments = ["--json", "send", "--file", lines.to_str().unwrap()];
    let environment = [("AMQP_URL", proxy.url())];
    let sent = system.cli_with(&arguments, &environment);
    let cut = async {
        for more in 1..=5 {
            let arrived = async || system.ready("orders").await > more * 500;
            wait_until("commands arrive", DRAINS_WITHIN, arrived).await;
            proxy.cut();
        }
    };
    let (output, ()) = tokio::join!(sent, cut);
    assert!(output.stderr().contains("sending again for up to 1m"), "{}", output.stderr());
    let report = output.exits(0).json();
    assert_eq!((&report["confirmed"], &report["failed"]), (&LINES.into(), &0.into()));
    assert!(proxy.connection_attempts() >= 6, "{}", proxy.connection_attempts());
    for (queue, first) in [("orders", 0), ("stock", 1)] {
        let expected: Vec<_> = (first..LINES).step_by(2).map(|number| format!("{number:06}")).collect();
        assert!(ids(&system, queue).await == expected, "{queue}");
    }
    system.close().await;
}

/// The broker is unavailable when the call begins.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_sent_when_the_broker_is_available_again() {
    let system = TestSystem::new("a_command_is_sent_when_the_broker_is_available_again").await;
    let proxy = Proxy::to(&amqp_url(), 5672).await;
    proxy.refuse(true);
    let arguments =
        ["send", "allocate", "--orderid", "o-1", "--sku", "LAMP", "--qty", "1", "--message-id", "m-1"];
    let environment = [("AMQP_URL", proxy.url())];
    let back = async {
        wait_until("it is tried", DRAINS_WITHIN, async || proxy.connection_attempts() > 2).await;
        proxy.refuse(false);
    };
    let (output, ()) = tokio::join!(system.cli_with(&arguments, &environment), back);
    output.exits(0);
    assert_eq!(ids(&system, "orders").await, ["m-1"]);
    system.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_stay_unconfirmed_are_given_up() {
    let system = TestSystem::new("commands_that_stay_unconfirmed_are_given_up").await;
    let proxy = Proxy::to(&amqp_url(), 5672).await;
    proxy.refuse(true);
    let lines = file(&system, 3);
    let environment = [("AMQP_URL", proxy.url())];
    for (limit, at_least) in [("2s", Duration::from_secs(2)), ("0s", Duration::ZERO)] {
        let arguments = ["--json", "send", "--file", lines.to_str().unwrap(), "--give-up-after", limit];
        let begin = Instant::now();
        let output = system.cli_with(&arguments, &environment).await.exits(1);
        assert!(begin.elapsed() >= at_least && begin.elapsed() < at_least + Duration::from_secs(10));
        assert_eq!(output.json()["failed"], 3);
        assert_eq!(output.stderr().matches("send it again").count(), 3, "{}", output.stderr());
    }
    for invalid in ["", "soon", "2days"] {
        system.cli(&["send", "--file", "-", "--give-up-after", invalid]).await.exits(2);
    }
    system.close().await;
}

/// Every publication closes the channel.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_exchange_is_named() {
    let system = TestSystem::new("a_missing_exchange_is_named").await;
    let exchange = system.named("commands");
    system
        .channel()
        .exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default())
        .await
        .unwrap();
    let lines = file(&system, 2);
    let arguments = ["send", "--file", lines.to_str().unwrap(), "--give-up-after", "1s"];
    let output = system.cli(&arguments).await.exits(1);
    assert!(output.stderr().contains("no exchange"), "{}", output.stderr());
    system.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_the_worker_would_reject_is_not_sent() {
    let system = TestSystem::new("a_command_that_the_worker_would_reject_is_not_sent").await;
    let refused = async |arguments: &[&str], error: &str| {
        let output: CliOutput = system.cli(&[&["send"], arguments].concat()).await.exits(2);
        output.assert_error(error);
    };
    let line = ["allocate", "--orderid", "o-1", "--sku", "LAMP", "--qty"];
    refused(&[&line[..], &["0"]].concat(), "qty: must be a whole number from 1").await;
    refused(&[&line[..], &["2147483648"]].concat(), "qty: must be a whole number from 1").await;
    refused(&["allocate", "--orderid", "", "--sku", "LAMP", "--qty", "1"], "orderid: must be 1 to 255").await;
    refused(&["deallocate", "--orderid", "o-1", "--sku", " "], "sku: must be 1 to 255").await;
    refused(&["create_batch", "--ref", "b", "--sku", "LAMP", "--qty", "1", "--eta", "soon"], "eta: must be")
        .await;
    refused(&["change_batch_quantity", "--batchref", "", "--qty", "0"], "batchref: must be 1 to 255").await;
    refused(&[&line[..], &["1", "--message-id", "a\u{202e}"]].concat(), "the message id must be").await;
    for queue in ["orders", "stock"] {
        assert_eq!(system.ready(queue).await, 0, "{queue}");
    }
    let unchecked = [&["send", "--unchecked"], &line[..], &["0", "--message-id", "m-1"]].concat();
    system.cli(&unchecked).await.exits(0);
    assert_eq!(ids(&system, "orders").await, ["m-1"]);
    system.close().await;
}

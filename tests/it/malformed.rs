//! Malformed messages. Each is dead-lettered unchanged, with its reason, and the others are handled; the process neither
//! terminates nor grows.

mod bodies;
mod decoding_time;
mod edges;
mod envelopes;
mod message;

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::harness::{DRAINS_WITHIN, RawMessage, TestSystem, allocate, create_batch, properties, wait_for};

use bodies::invalid_bodies;
use edges::{at_the_limits, unusual};
use envelopes::{invalid_envelopes, known_line};
use message::{INVALID, Malformed};

/// The memory limit of the process; the largest message has 20 MiB.
const MEMORY_KIB: u64 = 300 * 1024;

fn malformed_messages() -> Vec<Malformed> {
    invalid_bodies().into_iter().chain(invalid_envelopes()).collect()
}

/// The reasons of the dead letters, by message id and body.
async fn reasons(system: &TestSystem) -> HashMap<(Option<String>, Vec<u8>), String> {
    let rows: Vec<(Option<String>, Vec<u8>, String)> =
        sqlx::query_as("select message_id, body, reason from failed_messages where status = 'dead'")
            .fetch_all(&system.pool)
            .await
            .expect("the database responds");
    rows.into_iter().map(|(id, body, reason)| ((id, body), reason)).collect()
}

/// Every malformed message, each followed by a valid one, then the unusual messages.
fn messages(system: &TestSystem, all: &[Malformed]) -> Vec<RawMessage> {
    let mut messages = Vec::new();
    for (number, malformed) in all.iter().enumerate() {
        let neighbour = allocate(&format!("neighbour-{number}"), "LAMP", 1);
        let sent = properties(neighbour.kind, &neighbour.message_id);
        messages.push(malformed.raw(system));
        messages.push(system.sender.raw(neighbour.kind, sent, neighbour.body.to_string().as_bytes()));
    }
    for (sent, body) in unusual().into_iter().chain(at_the_limits()) {
        messages.push(system.sender.raw("allocate", sent, body.as_bytes()));
    }
    messages
}

/// The body that `dead-letters show` prints.
async fn shown(system: &TestSystem, body: &[u8]) -> Value {
    let id: String = sqlx::query_scalar("select min(id)::text from failed_messages where body = $1")
        .bind(body)
        .fetch_one(&system.pool)
        .await
        .expect("there is a failed message with the body");
    system.cli(&["dead-letters", "show", &id, "--json"]).await.exits(0).json()["body"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_messages_are_dead_lettered_and_the_others_are_handled() {
    let system = TestSystem::new("malformed_messages_are_dead_lettered_and_the_others_are_handled").await;
    let mut worker = system.worker_with(&[("ALLOCATION__RETRY__MAX_ATTEMPTS", "1")]);
    system.sender.send(&create_batch("b-1", "LAMP", 100_000)).await;
    system.wait_handled(1).await;
    system.sender.send(&known_line()).await;
    system.wait_drained(2).await;

    let malformed = malformed_messages();
    assert!(malformed.len() >= 60, "{}", malformed.len());
    let sent = messages(&system, &malformed);
    system.sender.publish_all(&sent).await;
    let finished = async || {
        let dead = system.count("select count(*) from failed_messages where status = 'dead'").await;
        system.handled().await + dead
    };
    wait_for(
        "every message is handled or dead",
        DRAINS_WITHIN,
        &i64::try_from(2 + sent.len()).unwrap(),
        finished,
    )
    .await;

    let mut reasons = reasons(&system).await;
    for message in &malformed {
        let reason = reasons.remove(&(message.id(), message.body.clone()));
        assert_eq!(reason.as_deref(), Some(message.reason), "{:?} {:?}", message.name, message.id());
    }
    for ((id, _), reason) in &reasons {
        let at_a_limit = id.as_deref().is_some_and(|id| id.starts_with("limit-"));
        assert!(at_a_limit && reason == INVALID, "{id:?} is dead: {reason}");
    }
    assert!(worker.is_alive());
    let peak = worker.peak_memory_kib();
    assert!(peak < MEMORY_KIB, "{peak} KiB");

    system.expect_dead(i64::try_from(malformed.len() + reasons.len()).unwrap());
    system.settled(2 + sent.len() - malformed.len() - reasons.len()).await;
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_body_of_a_dead_letter_is_shown_unchanged() {
    let system = TestSystem::new("the_body_of_a_dead_letter_is_shown_unchanged").await;
    let worker = system.worker();
    let (html, nul, binary) =
        (&b"<script>alert(1)</script>"[..], &b"{\"orderid\": \"a\\u0000\", \0"[..], &b"\xff\x00\xfe"[..]);
    for body in [html, nul, binary] {
        let id = format!("message {}", body.len());
        system.sender.publish_raw("allocate", properties("allocate", &id), body).await;
    }
    let dead = async || system.count("select count(*) from failed_messages where status = 'dead'").await;
    wait_for("all are dead", DRAINS_WITHIN, &3, dead).await;
    system.expect_dead(3);
    assert_eq!(shown(&system, html).await, json!("<script>alert(1)</script>"));
    assert_eq!(shown(&system, nul).await, json!("{\"orderid\": \"a\\u0000\", \0"));
    assert_eq!(shown(&system, binary).await, json!({ "base64": "/wD+" }));
    system.close_after([worker]).await;
}

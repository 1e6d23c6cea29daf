//! The examples of messages and requests: their events and responses are those that the documents print.

use std::sync::Arc;

use allocation::{
    adapters::memory::MemoryStore,
    domain::Command,
    ports::{routing::queue_of, store::Store},
    service::{body::read_body, outcome::CommandOutcome},
};
use serde_json::Value;

use crate::harness::{Client, HandleAll as _, JSON, TestSystem, bus, command};

use super::{
    commands::words,
    page::{Block, Page},
    part::expect_part,
};

const MESSAGES: &str = "docs/messages.md";
const HTTP: &str = "docs/http-api.md";

/// The JSON blocks on the page of messages, with their names.
fn examples() -> Vec<(String, Block)> {
    let blocks = Page::open(MESSAGES).blocks().into_iter();
    blocks.filter_map(|block| Some((block.info.strip_prefix("json ")?.to_owned(), block))).collect()
}

fn is_command(name: &str) -> bool {
    Command::NAMES.contains(&name)
}

#[test]
fn commands_are_decoded() {
    let commands: Vec<_> = examples().into_iter().filter(|(name, _)| is_command(name)).collect();
    assert!(commands.len() > 4, "only {} commands were found", commands.len());
    for (name, block) in commands {
        read_body(&name, block.text.as_bytes()).unwrap_or_else(|error| panic!("{}: {error}", block.text));
    }
}

#[test]
fn invalid_commands_are_rejected_with_the_printed_error() {
    let invalid = examples()
        .into_iter()
        .filter_map(|(name, block)| Some((name.strip_prefix("rejected: ")?.to_owned(), block)));
    let invalid: Vec<_> = invalid.collect();
    assert!(!invalid.is_empty());
    for (error, block) in invalid {
        let rejected = read_body("allocate", block.text.as_bytes()).unwrap_err().to_string();
        assert!(rejected.starts_with(&error), "{}: {rejected}", block.text);
    }
}

/// The first four commands of the page, in its order, cause the events of the page.
#[tokio::test]
async fn events_are_what_the_commands_cause() {
    let store = MemoryStore::default();
    let bus = bus(Arc::new(store.clone()) as Arc<dyn Store>);
    let commands = examples().into_iter().filter(|(name, _)| is_command(name)).take(4);
    for (number, (name, block)) in commands.enumerate() {
        let body: Value = serde_json::from_str(&block.text).unwrap();
        let received = command(&format!("m-{number}"), &name, &body);
        let queue = queue_of(&name).unwrap();
        let outcomes = bus.handle_all(queue, &mut [received]).await.unwrap();
        assert!(matches!(outcomes[..], [CommandOutcome::Handled]), "{outcomes:?}: {}", block.text);
    }
    let events = store
        .state()
        .await
        .outbox
        .iter()
        .map(|row| (row.name.clone(), row.body.clone() + "\n"))
        .collect::<Vec<_>>();
    let printed = examples()
        .into_iter()
        .filter(|(name, _)| ["allocated", "deallocated", "out_of_stock"].contains(&name.as_str()));
    let printed: Vec<_> = printed.map(|(name, block)| (name, block.text)).collect();
    assert_eq!(events, printed);
}

/// A request and the response below it.
struct Exchange {
    request: String,
    response: String,
}

/// The requests of the sessions on the page of HTTP, in their order.
fn exchanges() -> Vec<Exchange> {
    let mut exchanges: Vec<Exchange> = Vec::new();
    for block in Page::open(HTTP).blocks().iter().filter(|block| block.info == "console") {
        for line in block.text.lines() {
            match line.strip_prefix("$ ") {
                Some(request) => {
                    exchanges.push(Exchange { request: request.to_owned(), response: String::new() });
                }
                None => exchanges.last_mut().expect("a session begins with a request").response += line,
            }
        }
    }
    exchanges
}

/// Does what `curl` does with these arguments.
async fn send(client: &Client, request: &str) -> String {
    let words = words(request);
    let after = |option: &str| words.iter().position(|word| word == option).map(|at| words[at + 1].as_str());
    let url = words
        .iter()
        .find_map(|word| word.strip_prefix("http://127.0.0.1:8080"))
        .expect("a request has a URL");
    let header = after("-H").and_then(|header| header.split_once(": "));
    let headers: Vec<_> = [JSON].into_iter().chain(header).collect();
    match after("--json") {
        Some(body) => client.request("POST", url, &headers, body.as_bytes()).await.text(),
        None => client.get(url).await.text(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_have_the_printed_responses() {
    let system = TestSystem::new("requests_have_the_printed_responses").await;
    let (api, client) = system.api("api,relay", &[]).await;
    let exchanges = exchanges();
    assert!(exchanges.len() > 10, "only {} requests were found", exchanges.len());
    for Exchange { request, response } in exchanges {
        let received = send(&client, &request).await;
        expect_part(HTTP, &format!("$ {request}\n{response}\n"), &format!("$ {request}\n{received}\n"));
    }
    system.settled(3).await;
    system.close_after([api]).await;
}

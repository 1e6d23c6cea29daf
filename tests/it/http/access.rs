//! Who is served, and at which address.

use std::process::{Command, Output};

use crate::harness::{DRAINS_WITHIN, JSON, TestSystem, wait_until};

use super::{ROLES, TOKEN, add_batch, allocate, batch};

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_only_this_machine_is_served_by_its_own_name() {
    let system = TestSystem::new("without_a_token_only_this_machine_is_served_by_its_own_name").await;
    let (api, client) = system.api(ROLES, &[]).await;
    let body = batch("b-1", "LAMP", 10).to_string();
    for other in ["shop.example", "127.0.0.1.shop.example", "localhost.shop.example:80", "10.0.0.1"] {
        let host = ("Host", other);
        client.request("GET", "/orders/o-1", &[host], b"").await.has(421).message();
        client.request("POST", "/add_batch", &[JSON, host], body.as_bytes()).await.has(421).message();
        client.request("GET", "/health/live", &[host], b"").await.has(200);
    }
    assert_eq!(system.handled().await, 0);
    client.request("POST", "/add_batch", &[JSON, ("Host", "localhost")], body.as_bytes()).await.has(201);
    system.settled(1).await;
    system.close_after([api]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_know_the_token_is_told_nothing_but_health() {
    let system = TestSystem::new("whoever_does_not_know_the_token_is_told_nothing_but_health").await;
    let (api, client) = system.api(ROLES, &[TOKEN]).await;
    let body = batch("b-1", "LAMP", 10).to_string();
    for wrong in [None, Some("Bearer"), Some("Bearer open"), Some("Basic open-sesame"), Some("open-sesame")] {
        let said: Vec<_> = wrong.map(|wrong| ("Authorization", wrong)).into_iter().collect();
        let refused = client.request("GET", "/orders/o-1", &said, b"").await.has(401);
        assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
        refused.message();
        let said = [&[JSON][..], &said].concat();
        client.request("POST", "/add_batch", &said, body.as_bytes()).await.has(401).message();
    }
    for path in ["/health/live", "/health/ready"] {
        client.get(path).await.has(200);
    }
    assert_eq!(system.handled().await, 0);

    let right = ("Authorization", "Bearer open-sesame");
    client.request("GET", "/availability/LAMP", &[right], b"").await.has(404);
    client.request("POST", "/add_batch", &[JSON, right], body.as_bytes()).await.has(201);
    let elsewhere = [right, ("Host", "shop.example")];
    client.request("GET", "/availability/LAMP", &elsewhere, b"").await.has(200);
    system.settled(1).await;
    assert!(!api.log().contains(TOKEN.1), "the token is in the log");
    system.close_after([api]).await;
}

fn run_with(environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_allocation"))
        .args(["run", "--only", "api"])
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

#[test]
fn an_address_that_others_can_reach_needs_a_token() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:8080"] {
        let ended = run_with(&[("ALLOCATION__API__LISTEN", address)]);
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(1), "{said}");
        assert!(said.contains("api.token") && said.contains(address), "{said}");
    }
}

#[test]
fn an_address_that_can_never_be_taken_is_an_error_at_once() {
    // Reserved for documentation by RFC 5737: no machine has it.
    let ended = run_with(&[("ALLOCATION__API__LISTEN", "192.0.2.1:8080"), TOKEN]);
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("api.listen") && said.contains("192.0.2.1:8080"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_waits_for_the_address_and_takes_over() {
    let system = TestSystem::new("a_second_process_waits_for_the_address_and_takes_over").await;
    let (first, client) = system.api(ROLES, &[]).await;
    let address = client.address().to_string();
    let second = system.start(&["run", "--only", ROLES], &[("ALLOCATION__API__LISTEN", address.as_str())]);
    let waits = async || second.log().contains("address of api.listen unavailable");
    wait_until("the second says that it waits", DRAINS_WITHIN, waits).await;
    add_batch(&client, &batch("b-1", "LAMP", 10)).await;
    assert!(!second.log().contains("serving HTTP"));

    assert!(first.terminate().await.success());
    client.wait_until_ready().await;
    assert!(second.log().contains("serving HTTP"));
    allocate(&client, "o-1", "LAMP", 2).await;
    system.settled(2).await;
    system.close_after([second]).await;
}

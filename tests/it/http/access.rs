//! Tokens, host names, and the address of the API.

use std::process::{Command, Output};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::harness::{DRAINS_WITHIN, JSON, SOON, TestSystem, wait_until};

use super::{ROLES, TOKEN, add_batch, allocate, batch};

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_only_local_host_names_are_served() {
    let system = TestSystem::new("without_a_token_only_local_host_names_are_served").await;
    let (api, client) = system.api(ROLES, &[]).await;
    let body = batch("b-1", "LAMP", 10).to_string();
    for other in ["shop.example", "127.0.0.1.shop.example", "localhost.shop.example:80", "10.0.0.1"] {
        let host = ("Host", other);
        client.request("GET", "/orders/o-1", &[host], b"").await.expect_status(421).message();
        client
            .request("POST", "/add_batch", &[JSON, host], body.as_bytes())
            .await
            .expect_status(421)
            .message();
        client.request("GET", "/health/live", &[host], b"").await.expect_status(200);
    }
    assert_eq!(system.handled().await, 0);
    client
        .request("POST", "/add_batch", &[JSON, ("Host", "localhost")], body.as_bytes())
        .await
        .expect_status(201);
    system.settled(1).await;
    system.close_after([api]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_token_only_the_health_endpoints_are_served() {
    let system = TestSystem::new("without_the_token_only_the_health_endpoints_are_served").await;
    let (api, client) = system.api(ROLES, &[TOKEN]).await;
    let body = batch("b-1", "LAMP", 10).to_string();
    let wrong = [
        None,
        Some("Bearer"),
        Some("Bearer open"),
        Some("Bearer open-sesame1"),
        Some("Bearer  open-sesame"),
        Some("Bearer\topen-sesame"),
        Some("Basic open-sesame"),
        Some("open-sesame"),
    ];
    for wrong in wrong {
        let headers: Vec<_> = wrong.map(|wrong| ("Authorization", wrong)).into_iter().collect();
        let rejected = client.request("GET", "/orders/o-1", &headers, b"").await.expect_status(401);
        assert_eq!(rejected.header("www-authenticate"), Some("Bearer"));
        rejected.message();
        let headers = [&[JSON][..], &headers].concat();
        client.request("POST", "/add_batch", &headers, body.as_bytes()).await.expect_status(401).message();
    }
    for path in ["/health/live", "/health/ready"] {
        client.get(path).await.expect_status(200);
    }
    assert_eq!(system.handled().await, 0);

    let right = ("Authorization", "Bearer open-sesame");
    client.request("GET", "/availability/LAMP", &[right], b"").await.expect_status(404);
    client.request("POST", "/add_batch", &[JSON, right], body.as_bytes()).await.expect_status(201);
    let other_host = [right, ("Host", "shop.example")];
    client.request("GET", "/availability/LAMP", &other_host, b"").await.expect_status(200);
    system.settled(1).await;
    assert!(!api.log().contains(TOKEN.1), "the token is in the log");
    let (_, log) = api.stop_with("TERM").await;
    let refusals: Vec<_> = log.lines().filter(|line| line.contains("HTTP login refused")).collect();
    let [first, repeated] = refusals[..] else { panic!("{log}") };
    assert!(first.contains("peer=\"127.0.0.1:"), "{first}");
    assert!(repeated.contains("repeated="), "{repeated}");
    system.close().await;
}

fn run_with(environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_allocation"))
        .args(["run", "--only", "api"])
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

#[test]
fn an_address_other_than_loopback_requires_a_token() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:8080"] {
        let ended = run_with(&[("ALLOCATION__API__LISTEN", address)]);
        let stderr = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("api.token") && stderr.contains(address), "{stderr}");
    }
}

#[test]
fn an_address_that_the_machine_does_not_have_is_an_immediate_error() {
    // Reserved for documentation by RFC 5737: no machine has it.
    let token = ("ALLOCATION__API__TOKEN", "open-sesame-open-sesame");
    let ended = run_with(&[("ALLOCATION__API__LISTEN", "192.0.2.1:8080"), token]);
    let stderr = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("api.listen") && stderr.contains("192.0.2.1:8080"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_waits_for_the_address_and_takes_over() {
    let system = TestSystem::new("a_second_process_waits_for_the_address_and_takes_over").await;
    let (first, client) = system.api(ROLES, &[]).await;
    let address = client.address().to_string();
    let second = system.start(&["run", "--only", ROLES], &[("ALLOCATION__API__LISTEN", address.as_str())]);
    let waits = async || second.log().contains("address of api.listen unavailable");
    wait_until("the second process waits for the address", DRAINS_WITHIN, waits).await;
    add_batch(&client, &batch("b-1", "LAMP", 10)).await;
    assert!(!second.log().contains("serving HTTP"));

    assert!(first.terminate().await.success());
    client.wait_until_ready().await;
    assert!(second.log().contains("serving HTTP"));
    allocate(&client, "o-1", "LAMP", 2).await;
    system.settled(2).await;
    system.close_after([second]).await;
}

/// A request without the token is answered before its body arrives, however long that is announced to be.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_not_read_without_the_token() {
    let system = TestSystem::new("a_body_is_not_read_without_the_token").await;
    let (api, client) = system.api(ROLES, &[TOKEN]).await;
    let mut stream = TcpStream::connect(client.address()).await.unwrap();
    let head = "POST /allocate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    timeout(SOON, stream.read_exact(&mut status)).await.expect("it is answered").unwrap();
    assert_eq!(&status, b"HTTP/1.1 401");
    system.close_after([api]).await;
}

/// What a page in a browser on this machine can send without being asked first.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_in_a_browser_can_send_no_command() {
    let system = TestSystem::new("a_page_in_a_browser_can_send_no_command").await;
    let (api, client) = system.api(ROLES, &[]).await;
    let body = batch("b-1", "LAMP", 10).to_string();
    let simple = [
        "text/plain",
        "text/plain; application/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain, application/json",
    ];
    for content_type in simple {
        let headers = [("Content-Type", content_type)];
        let refused =
            client.request("POST", "/add_batch", &headers, body.as_bytes()).await.expect_status(415);
        assert_eq!(refused.header("content-type"), Some("application/json"), "markup in an error is text");
    }
    let origin = ("Origin", "https://shop.example");
    let preflight = [origin, ("Access-Control-Request-Method", "POST")];
    let refused = client.request("OPTIONS", "/add_batch", &preflight, b"").await.expect_status(405);
    assert_eq!(refused.header("access-control-allow-origin"), None);
    for host in ["127.0.0.1.nip.io", "0.0.0.0", "0", "2130706433", ""] {
        client.request("GET", "/orders/o-1", &[("Host", host)], b"").await.expect_status(421);
    }
    assert_eq!(system.handled().await, 0);
    system.close_after([api]).await;
}

//! Rejected requests: invalid, too large, too slow, or with a wrong method or path.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::harness::{Client, JSON, TestSystem};

use super::{FAILURES, ROLES, add_batch, batch};

/// Invalid bodies, and a part of the error message.
const INVALID: [(&str, &str, &str); 16] = [
    ("/allocate", "", "JSON object"),
    ("/allocate", "o-1, LAMP, 3", "JSON object"),
    ("/allocate", r#"["o-1", "LAMP", 3]"#, "JSON object"),
    ("/allocate", r#"{"orderid": "o-1", "sku": "LAMP", "qty": 3"#, "EOF"),
    ("/allocate", r#"{"orderid": "o-1", "sku": "LAMP"}"#, "qty"),
    ("/allocate", r#"{"sku": "LAMP", "qty": 3}"#, "orderid"),
    ("/allocate", r#"{"orderid": "o-1", "sku": 7, "qty": 3}"#, "sku"),
    ("/allocate", r#"{"orderid": " ", "sku": "LAMP", "qty": 3}"#, "orderid"),
    ("/allocate", r#"{"orderid": "o-1", "sku": "LAMP", "qty": 0}"#, "qty"),
    ("/allocate", r#"{"orderid": "o-1", "sku": "LAMP", "qty": "few"}"#, "qty"),
    ("/deallocate", r#"{"orderid": "o-1"}"#, "sku"),
    ("/add_batch", r#"{"sku": "LAMP", "qty": 3, "eta": null}"#, "ref"),
    ("/add_batch", r#"{"ref": "b-1", "sku": "LAMP", "qty": -1, "eta": null}"#, "qty"),
    ("/add_batch", r#"{"ref": "b-1", "sku": "LAMP", "qty": 3, "eta": "soon"}"#, "eta"),
    ("/change_batch_quantity", r#"{"batchref": "b-1", "qty": 1.5}"#, "qty"),
    ("/change_batch_quantity", r#"{"batchref": "b-1", "qty": 1, "revision": "last"}"#, "revision"),
];

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_body_is_rejected_and_its_field_is_named() {
    let system = TestSystem::new("an_invalid_body_is_rejected_and_its_field_is_named").await;
    let (api, client) = system.api(ROLES, &[]).await;
    for (path, body, named) in INVALID {
        let rejected =
            client.request("POST", path, &[JSON], body.as_bytes()).await.expect_status(400).message();
        assert!(rejected.contains(named), "{path} {body}: {rejected}");
    }
    client.request("POST", "/allocate", &[JSON], b"\xff\xfe{}").await.expect_status(400).message();
    // Digits as text and unknown fields are valid, as in messages.
    let valid = json!({ "ref": "b-1", "sku": "LAMP", "qty": "5", "colour": ["blue"] });
    add_batch(&client, &valid).await;
    assert_eq!((system.count(FAILURES).await, system.handled().await), (0, 1));
    system.settled(1).await;
    system.close_after([api]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_uncompressed_json_within_the_limit_is_accepted() {
    let system = TestSystem::new("only_uncompressed_json_within_the_limit_is_accepted").await;
    let (api, client) = system.api(ROLES, &[]).await;
    let body = batch("b-1", "LAMP", 10).to_string();
    let compressed = ("Content-Encoding", "gzip");
    let headers: [&[(&str, &str)]; 4] =
        [&[], &[("Content-Type", "text/plain")], &[("Content-Type", "text/json")], &[JSON, compressed]];
    for headers in headers {
        client.request("POST", "/add_batch", headers, body.as_bytes()).await.expect_status(415).message();
    }
    let large = format!("{body}{}", " ".repeat(300_000 - body.len()));
    let rejected =
        client.request("POST", "/add_batch", &[JSON], large.as_bytes()).await.expect_status(413).message();
    assert!(rejected.contains("262144") && rejected.contains("limits.body_bytes"), "{rejected}");

    let with_charset = [("content-type", "application/json; charset=utf-8")];
    client.request("POST", "/add_batch", &with_charset, body.as_bytes()).await.expect_status(201);
    assert_eq!(system.count(FAILURES).await, 0);
    system.settled(1).await;
    system.close_after([api]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_methods_and_paths_get_errors_in_json() {
    let system = TestSystem::new("wrong_methods_and_paths_get_errors_in_json").await;
    let (api, client) = system.api(ROLES, &[]).await;
    for (method, path, allowed) in [
        ("GET", "/allocate", "POST"),
        ("PUT", "/add_batch", "POST"),
        ("DELETE", "/orders/o-1", "GET"),
        ("POST", "/allocations/o-1", "GET"),
        ("POST", "/health/live", "GET"),
    ] {
        let rejected = client.request(method, path, &[JSON], b"{}").await.expect_status(405);
        let allow = rejected.header("allow").unwrap_or_default();
        assert!(allow.contains(allowed), "{method} {path}: {allow}");
        rejected.message();
    }
    for path in ["/", "/orders", "/orders/", "/orders/a/b", "/allocat", "/add_batch/"] {
        client.get(path).await.expect_status(404).message();
    }
    for name in ["%FF", "a%C3%28", "%00", "o-1%00"] {
        for path in ["/orders/", "/allocations/", "/availability/"] {
            client.get(&[path, name].concat()).await.expect_status(400).message();
        }
    }
    client.get("/orders/o-1").await.expect_status(404).message();
    system.close_after([api]).await;
}

/// Sends an incomplete request and returns the response.
async fn response_to_a_slow_client(client: &Client, beginning: &[u8]) -> String {
    let mut stream = TcpStream::connect(client.address()).await.unwrap();
    stream.write_all(beginning).await.unwrap();
    let mut response = Vec::new();
    // The connection may end with a reset.
    let ended = timeout(Duration::from_secs(20), stream.read_to_end(&mut response)).await;
    let _ = ended.expect("the connection is closed after the timeout");
    String::from_utf8_lossy(&response).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incomplete_request_is_ended_after_the_timeout() {
    let system = TestSystem::new("an_incomplete_request_is_ended_after_the_timeout").await;
    let timeouts = [("ALLOCATION__API__TIMEOUT", "2s"), ("ALLOCATION__API__KEEP_ALIVE", "2s")];
    let (api, client) = system.api(ROLES, &timeouts).await;
    let headers = b"POST /allocate HTTP/1.1\r\nHost: localhost\r\nX-Slow: y";
    let body = b"POST /allocate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
        Content-Length: 100\r\nConnection: close\r\n\r\n{\"orderid\": ";
    let others = async {
        add_batch(&client, &batch("b-1", "LAMP", 10)).await;
        client.get("/availability/LAMP").await.expect_status(200).json()
    };
    let (slow_headers, slow_body, others) = tokio::join!(
        response_to_a_slow_client(&client, headers),
        response_to_a_slow_client(&client, body),
        others
    );
    assert_eq!(slow_headers, "", "incomplete headers get no response");
    assert!(slow_body.starts_with("HTTP/1.1 408"), "{slow_body}");
    assert_eq!(others["backordered"], 0);
    system.settled(1).await;
    system.close_after([api]).await;
}

/// More connections than the server keeps open, each with an incomplete request.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_send_nothing_do_not_delay_a_health_check() {
    let system = TestSystem::new("clients_that_send_nothing_do_not_delay_a_health_check").await;
    let (api, client) = system.api(ROLES, &[]).await;
    let mut silent = Vec::new();
    for _ in 0..2100 {
        let mut stream = TcpStream::connect(client.address()).await.unwrap();
        // The server may have closed it already, to make room for a newer one.
        let _ = stream.write_all(b"GET /health/live HTTP/1.1\r\nHost: local").await;
        silent.push(stream);
    }
    let begin = Instant::now();
    client.get("/health/live").await.expect_status(200);
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    drop(silent);
    system.close_after([api]).await;
}

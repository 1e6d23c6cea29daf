//! The API as clients meet it: the book's requests, every bad one, repeats, crowds, and servers that come and go.

use std::{
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use lapin::options::QueueDeleteOptions;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use crate::harness::{Client, DRAINS_WITHIN, JSON, Proxy, Response, World, wait_for, wait_until};

/// A process that answers, and publishes what follows from it.
const ROLES: &str = "api,relay";
const TOKEN: (&str, &str) = ("ALLOCATION__API__TOKEN", "open-sesame");
const FAILURES: &str = "select count(*) from failed_messages";

fn batch(reference: &str, sku: &str, qty: u32) -> Value {
    json!({ "ref": reference, "sku": sku, "qty": qty, "eta": null })
}

fn line(orderid: &str, sku: &str, qty: u32) -> Value {
    json!({ "orderid": orderid, "sku": sku, "qty": qty })
}

async fn add_batch(client: &Client, body: &Value) {
    assert_eq!(client.post("/add_batch", body).await.has(201).text(), "OK");
}

async fn allocate(client: &Client, orderid: &str, sku: &str, qty: u32) {
    assert_eq!(client.post("/allocate", &line(orderid, sku, qty)).await.has(202).text(), "OK");
}

/// Posts under a key, so that a repeat is recognised.
async fn post_as(client: &Client, key: &str, path: &str, body: &Value) -> Response {
    let headers = [JSON, ("Idempotency-Key", key)];
    client.request("POST", path, &headers, body.to_string().as_bytes()).await
}

/// What a refused command is told.
async fn refusal(client: &Client, path: &str, body: &Value) -> String {
    client.post(path, body).await.has(400).message()
}

/// E1.
#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_was_posted_is_found_in_the_batch_that_arrives_first() {
    let world = World::new("a_line_that_was_posted_is_found_in_the_batch_that_arrives_first").await;
    let (api, client) = world.api(ROLES, &[]).await;
    for (reference, sku, eta) in
        [("b-may", "LAMP", "2031-05-02"), ("b-april", "LAMP", "2031-04-01"), ("b-vase", "VASE", "2031-03-01")]
    {
        let mut body = batch(reference, sku, 50);
        body["eta"] = json!(eta);
        add_batch(&client, &body).await;
    }
    allocate(&client, "o-1", "LAMP", 3).await;
    let found = client.get("/allocations/o-1").await.has(200).json();
    assert_eq!(found, json!([{ "sku": "LAMP", "batchref": "b-april" }]));
    world.settled(4).await;
    world.close_after([api]).await;
}

/// E2, and the same for a batch.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_has_heard_of_is_refused_by_name_and_leaves_no_trace() {
    let world = World::new("what_nobody_has_heard_of_is_refused_by_name_and_leaves_no_trace").await;
    let (api, client) = world.api(ROLES, &[]).await;
    let unknown = "Invalid sku NO-SUCH-SKU";
    assert_eq!(refusal(&client, "/allocate", &line("o-1", "NO-SUCH-SKU", 3)).await, unknown);
    let taken_back = json!({ "orderid": "o-1", "sku": "NO-SUCH-SKU" });
    assert_eq!(refusal(&client, "/deallocate", &taken_back).await, unknown);
    let recounted = json!({ "batchref": "b-9", "qty": 3 });
    assert_eq!(refusal(&client, "/change_batch_quantity", &recounted).await, "Invalid batchref b-9");

    assert_eq!(client.get("/allocations/o-1").await.has(404).text(), "not found");
    assert_eq!((world.count(FAILURES).await, world.handled().await), (0, 0));
    world.close_after([api]).await;
}

/// R7, as the book has it in the end: no stock is no error.
#[tokio::test(flavor = "multi_thread")]
async fn a_line_without_stock_is_accepted_and_waits() {
    let world = World::new("a_line_without_stock_is_accepted_and_waits").await;
    let (api, client) = world.api(ROLES, &[]).await;
    add_batch(&client, &batch("b-1", "LAMP", 9)).await;
    allocate(&client, "o-1", "LAMP", 10).await;
    assert_eq!(client.get("/allocations/o-1").await.has(404).text(), "not found");
    let order = client.get("/orders/o-1").await.has(200).json();
    let waiting = json!({ "sku": "LAMP", "qty": 10, "status": "backordered", "batchref": null });
    assert_eq!(order, json!({ "orderid": "o-1", "lines": [waiting] }));

    add_batch(&client, &batch("b-2", "LAMP", 10)).await;
    let found = client.get("/allocations/o-1").await.has(200).json();
    assert_eq!(found, json!([{ "sku": "LAMP", "batchref": "b-2" }]));
    world.settled(3).await;
    world.close_after([api]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_eta_may_be_null_absent_a_date_or_a_timestamp() {
    let world = World::new("an_eta_may_be_null_absent_a_date_or_a_timestamp").await;
    let (api, client) = world.api(ROLES, &[]).await;
    add_batch(&client, &json!({ "ref": "b-1", "sku": "LAMP", "qty": 1 })).await;
    for (reference, eta) in [
        ("b-2", Value::Null),
        ("b-3", json!("2031-02-28")),
        ("b-4", json!("2031-02-28T23:59:59+02:00")),
        ("b-5", json!("2031-02-28 08:30:00")),
    ] {
        add_batch(&client, &json!({ "ref": reference, "sku": "LAMP", "qty": 1, "eta": eta })).await;
    }
    let shown = client.get("/availability/LAMP").await.has(200).json();
    let batches: Vec<_> = shown["batches"]
        .as_array()
        .unwrap()
        .iter()
        .map(|batch| (batch["batchref"].as_str().unwrap(), batch["eta"].as_str()))
        .collect();
    let day = Some("2031-02-28");
    assert_eq!(batches, [("b-1", None), ("b-2", None), ("b-3", day), ("b-4", day), ("b-5", day)]);
    world.settled(5).await;
    world.close_after([api]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_taken_back_and_batches_recounted() {
    let world = World::new("lines_are_taken_back_and_batches_recounted").await;
    let (api, client) = world.api(ROLES, &[]).await;
    add_batch(&client, &batch("b-1", "LAMP", 10)).await;
    allocate(&client, "o-1", "LAMP", 10).await;
    allocate(&client, "o-2", "LAMP", 4).await;
    let taken_back = json!({ "orderid": "o-1", "sku": "LAMP" });
    for _ in 0..2 {
        assert_eq!(client.post("/deallocate", &taken_back).await.has(202).text(), "OK");
    }
    client.get("/orders/o-1").await.has(404).message();
    assert_eq!(client.get("/allocations/o-2").await.has(200).json()[0]["batchref"], "b-1");

    let recounted = json!({ "batchref": "b-1", "qty": 3 });
    assert_eq!(client.post("/change_batch_quantity", &recounted).await.has(202).text(), "OK");
    assert_eq!(client.get("/orders/o-2").await.has(200).json()["lines"][0]["status"], "backordered");
    let events = world.settled(6).await;
    let told: Vec<_> = events.iter().map(|event| (event.kind(), event.field("orderid"))).collect();
    let expected = [
        ("allocated", "o-1"),
        ("out_of_stock", "o-2"),
        ("deallocated", "o-1"),
        ("allocated", "o-2"),
        ("deallocated", "o-2"),
        ("out_of_stock", "o-2"),
    ];
    assert_eq!(told, expected);
    world.close_after([api]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_rule_is_refused_and_a_repeat_is_not() {
    let world = World::new("a_broken_rule_is_refused_and_a_repeat_is_not").await;
    let (api, client) = world.api(ROLES, &[]).await;
    for _ in 0..2 {
        add_batch(&client, &batch("b-1", "LAMP", 10)).await;
        allocate(&client, "o-1", "LAMP", 2).await;
    }
    let other_quantity = refusal(&client, "/allocate", &line("o-1", "LAMP", 3)).await;
    assert_eq!(other_quantity, "order o-1 already has a line of 2 LAMP; it cannot become 3");
    for other in [batch("b-1", "LAMP", 11), batch("b-1", "VASE", 10)] {
        let other_batch = refusal(&client, "/add_batch", &other).await;
        assert_eq!(other_batch, "batch b-1 already exists with another sku, quantity or eta");
    }
    assert_eq!(world.count("select allocated::bigint from batches").await, 2);
    assert_eq!(world.count(FAILURES).await, 0);
    world.settled(4).await;
    world.close_after([api]).await;
}

/// Bodies that say no command, and what the answer must name.
const UNREADABLE: [(&str, &str, &str); 16] = [
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
async fn what_cannot_be_read_is_refused_and_the_field_is_named() {
    let world = World::new("what_cannot_be_read_is_refused_and_the_field_is_named").await;
    let (api, client) = world.api(ROLES, &[]).await;
    for (path, body, named) in UNREADABLE {
        let refused = client.request("POST", path, &[JSON], body.as_bytes()).await.has(400).message();
        assert!(refused.contains(named), "{path} {body}: {refused}");
    }
    client.request("POST", "/allocate", &[JSON], b"\xff\xfe{}").await.has(400).message();
    // As tolerant as the reader of messages.
    let odd_numbers = json!({ "ref": "b-1", "sku": "LAMP", "qty": "5", "colour": ["blue"] });
    add_batch(&client, &odd_numbers).await;
    assert_eq!((world.count(FAILURES).await, world.handled().await), (0, 1));
    world.settled(1).await;
    world.close_after([api]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_plain_json_of_a_reasonable_size_is_taken() {
    let world = World::new("only_plain_json_of_a_reasonable_size_is_taken").await;
    let (api, client) = world.api(ROLES, &[]).await;
    let body = batch("b-1", "LAMP", 10).to_string();
    let packed = ("Content-Encoding", "gzip");
    let headers: [&[(&str, &str)]; 4] =
        [&[], &[("Content-Type", "text/plain")], &[("Content-Type", "text/json")], &[JSON, packed]];
    for headers in headers {
        client.request("POST", "/add_batch", headers, body.as_bytes()).await.has(415).message();
    }
    let large = format!("{body}{}", " ".repeat(300_000 - body.len()));
    let refused = client.request("POST", "/add_batch", &[JSON], large.as_bytes()).await.has(413).message();
    assert!(refused.contains("262144") && refused.contains("limits.body"), "{refused}");

    let with_charset = [("content-type", "application/json; charset=utf-8")];
    client.request("POST", "/add_batch", &with_charset, body.as_bytes()).await.has(201);
    assert_eq!(world.count(FAILURES).await, 0);
    world.settled(1).await;
    world.close_after([api]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_methods_and_paths_are_told_so_in_json() {
    let world = World::new("wrong_methods_and_paths_are_told_so_in_json").await;
    let (api, client) = world.api(ROLES, &[]).await;
    for (method, path, allowed) in [
        ("GET", "/allocate", "POST"),
        ("PUT", "/add_batch", "POST"),
        ("DELETE", "/orders/o-1", "GET"),
        ("POST", "/allocations/o-1", "GET"),
        ("POST", "/health/live", "GET"),
    ] {
        let refused = client.request(method, path, &[JSON], b"{}").await.has(405);
        let allow = refused.header("allow").unwrap_or_default();
        assert!(allow.contains(allowed), "{method} {path}: {allow}");
        refused.message();
    }
    for path in ["/", "/orders", "/orders/", "/orders/a/b", "/allocat", "/add_batch/"] {
        client.get(path).await.has(404).message();
    }
    for name in ["%FF", "a%C3%28", "%00", "o-1%00"] {
        for path in ["/orders/", "/allocations/", "/availability/"] {
            client.get(&[path, name].concat()).await.has(400).message();
        }
    }
    client.get("/orders/o-1").await.has(404).message();
    world.close_after([api]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_under_its_key_has_the_same_answer_and_one_effect() {
    let world = World::new("a_repeat_under_its_key_has_the_same_answer_and_one_effect").await;
    let (api, client) = world.api(ROLES, &[]).await;
    for key in ["", " ", &"k".repeat(201)] {
        let refused = post_as(&client, key, "/allocate", &line("o-1", "LAMP", 2)).await.has(400).message();
        assert!(refused.contains("Idempotency-Key"), "{refused}");
    }
    for key in ["k-1", &"k".repeat(200), "schlüssel"] {
        for _ in 0..3 {
            // The two queues count their keys apart.
            let body = batch(&format!("b-{}", key.len()), "LAMP", 10);
            assert_eq!(post_as(&client, key, "/add_batch", &body).await.has(201).text(), "OK");
            let body = line(&format!("o-{}", key.len()), "LAMP", 2);
            assert_eq!(post_as(&client, key, "/allocate", &body).await.has(202).text(), "OK");
        }
    }
    let another = post_as(&client, "k-1", "/allocate", &line("o-9", "LAMP", 2)).await.has(409).message();
    assert!(another.contains("another type or body"), "{another}");
    let another = post_as(&client, "k-1", "/deallocate", &line("o-3", "LAMP", 2)).await.has(409).message();
    assert!(another.contains("another type or body"), "{another}");
    client.get("/orders/o-9").await.has(404);
    assert_eq!(world.count(FAILURES).await, 0);
    assert_eq!(world.settled(6).await.len(), 3);
    world.close_after([api]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_command_may_come_again_under_its_key_once_the_cause_is_mended() {
    let world = World::new("a_refused_command_may_come_again_under_its_key_once_the_cause_is_mended").await;
    let (api, client) = world.api(ROLES, &[]).await;
    let wanted = line("o-1", "LAMP", 2);
    for _ in 0..2 {
        let refused = post_as(&client, "k-1", "/allocate", &wanted).await.has(400).message();
        assert_eq!(refused, "Invalid sku LAMP");
    }
    add_batch(&client, &batch("b-1", "LAMP", 10)).await;
    for _ in 0..2 {
        post_as(&client, "k-1", "/allocate", &wanted).await.has(202);
    }
    assert_eq!(world.count(FAILURES).await, 0);
    assert_eq!(world.settled(2).await.len(), 1);
    world.close_after([api]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_and_availability_tell_where_everything_is() {
    let world = World::new("orders_and_availability_tell_where_everything_is").await;
    let (api, client) = world.api(ROLES, &[]).await;
    for (reference, sku, qty, eta) in [
        ("b-late", "LAMP", 7, Some("2031-06-01")),
        ("b-early", "LAMP", 5, Some("2031-01-01")),
        ("b-stock", "LAMP", 10, None),
        ("b-vase", "VASE", 1, None),
    ] {
        add_batch(&client, &json!({ "ref": reference, "sku": sku, "qty": qty, "eta": eta })).await;
    }
    for (orderid, sku, qty) in [
        ("o-1", "VASE", 3),
        ("o-1", "LAMP", 10),
        ("o-2", "LAMP", 6),
        ("o-3", "LAMP", 100),
        ("o-4", "LAMP", 50),
    ] {
        allocate(&client, orderid, sku, qty).await;
    }
    let lines = json!([
        { "sku": "LAMP", "qty": 10, "status": "allocated", "batchref": "b-stock" },
        { "sku": "VASE", "qty": 3, "status": "backordered", "batchref": null },
    ]);
    let order = client.get("/orders/o-1").await.has(200).json();
    assert_eq!(order, json!({ "orderid": "o-1", "lines": lines }));
    let batches = json!([
        { "batchref": "b-stock", "eta": null, "purchased": 10, "allocated": 10, "available": 0 },
        { "batchref": "b-early", "eta": "2031-01-01", "purchased": 5, "allocated": 0, "available": 5 },
        { "batchref": "b-late", "eta": "2031-06-01", "purchased": 7, "allocated": 6, "available": 1 },
    ]);
    let there_is = client.get("/availability/LAMP").await.has(200).json();
    assert_eq!(there_is, json!({ "sku": "LAMP", "batches": batches, "backordered": 150 }));
    client.get("/availability/NO-SUCH-SKU").await.has(404).message();
    client.get("/orders/o-9").await.has(404).message();
    world.settled(9).await;
    world.close_after([api]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_may_hold_whatever_can_be_written_in_a_path() {
    let world = World::new("names_may_hold_whatever_can_be_written_in_a_path").await;
    let (api, client) = world.api(ROLES, &[]).await;
    let names = [
        ("2031/17", "2031%2F17"),
        ("two words", "two%20words"),
        ("Grüße-😀", "Gr%C3%BC%C3%9Fe-%F0%9F%98%80"),
        ("100%", "100%25"),
        ("a+b", "a+b"),
        ("?#&", "%3F%23%26"),
    ];
    for (name, path) in names {
        add_batch(&client, &batch(&format!("b of {name}"), name, 10)).await;
        allocate(&client, name, name, 1).await;
        let order = client.get(&format!("/orders/{path}")).await.has(200).json();
        assert_eq!((&order["orderid"], &order["lines"][0]["sku"]), (&json!(name), &json!(name)));
        let found = client.get(&format!("/allocations/{path}")).await.has(200).json();
        assert_eq!(found, json!([{ "sku": name, "batchref": format!("b of {name}") }]));
        let there_is = client.get(&format!("/availability/{path}")).await.has(200).json();
        assert_eq!((&there_is["sku"], &there_is["batches"][0]["available"]), (&json!(name), &json!(9)));
    }
    world.settled(2 * names.len()).await;
    world.close_after([api]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_only_this_machine_is_served_by_its_own_name() {
    let world = World::new("without_a_token_only_this_machine_is_served_by_its_own_name").await;
    let (api, client) = world.api(ROLES, &[]).await;
    let body = batch("b-1", "LAMP", 10).to_string();
    for other in ["shop.example", "127.0.0.1.shop.example", "localhost.shop.example:80", "10.0.0.1"] {
        let host = ("Host", other);
        client.request("GET", "/orders/o-1", &[host], b"").await.has(421).message();
        client.request("POST", "/add_batch", &[JSON, host], body.as_bytes()).await.has(421).message();
        client.request("GET", "/health/live", &[host], b"").await.has(200);
    }
    assert_eq!(world.handled().await, 0);
    client.request("POST", "/add_batch", &[JSON, ("Host", "localhost")], body.as_bytes()).await.has(201);
    world.settled(1).await;
    world.close_after([api]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_know_the_token_is_told_nothing_but_health() {
    let world = World::new("whoever_does_not_know_the_token_is_told_nothing_but_health").await;
    let (api, client) = world.api(ROLES, &[TOKEN]).await;
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
    assert_eq!(world.handled().await, 0);

    let right = ("Authorization", "Bearer open-sesame");
    client.request("GET", "/availability/LAMP", &[right], b"").await.has(404);
    client.request("POST", "/add_batch", &[JSON, right], body.as_bytes()).await.has(201);
    let elsewhere = [right, ("Host", "shop.example")];
    client.request("GET", "/availability/LAMP", &elsewhere, b"").await.has(200);
    world.settled(1).await;
    assert!(!api.log().contains(TOKEN.1), "the token is in the log");
    world.close_after([api]).await;
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
    // Set aside for documentation: no machine has it.
    let ended = run_with(&[("ALLOCATION__API__LISTEN", "192.0.2.1:8080"), TOKEN]);
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("api.listen") && said.contains("192.0.2.1:8080"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_waits_for_the_address_and_takes_over() {
    let world = World::new("a_second_process_waits_for_the_address_and_takes_over").await;
    let (first, client) = world.api(ROLES, &[]).await;
    let address = client.address().to_string();
    let second = world.start(&["run", "--only", ROLES], &[("ALLOCATION__API__LISTEN", address.as_str())]);
    let waits = async || second.log().contains("waiting for the address of api.listen");
    wait_until("the second says that it waits", DRAINS_WITHIN, waits).await;
    add_batch(&client, &batch("b-1", "LAMP", 10)).await;
    assert!(!second.log().contains("serving HTTP"));

    assert!(first.terminate().await.success());
    client.wait_until_ready().await;
    assert!(second.log().contains("serving HTTP"));
    allocate(&client, "o-1", "LAMP", 2).await;
    world.settled(2).await;
    world.close_after([second]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_requests_for_one_sku_at_once_are_all_answered() {
    let world = World::new("a_thousand_requests_for_one_sku_at_once_are_all_answered").await;
    let (api, client) = world.api(ROLES, &[]).await;
    add_batch(&client, &batch("b-1", "LAMP", 500)).await;
    let mut asking = JoinSet::new();
    for number in 0..1000 {
        let client = client.clone();
        asking.spawn(async move {
            let wanted = line(&format!("o-{number}"), "LAMP", 1);
            client.post("/allocate", &wanted).await.has(202).text()
        });
    }
    let answers = asking.join_all().await;
    assert_eq!(answers.len(), 1000);
    assert!(answers.iter().all(|answer| answer == "OK"));

    let events = world.settled(1001).await;
    let of = |kind: &str| events.iter().filter(|event| event.kind() == kind).count();
    assert_eq!((of("allocated"), of("out_of_stock"), events.len()), (500, 500, 1000));
    assert_eq!(world.allocated_lines().await.len(), 500);
    let there_is = client.get("/availability/LAMP").await.has(200).json();
    assert_eq!((&there_is["batches"][0]["available"], &there_is["backordered"]), (&json!(0), &json!(500)));
    world.close_after([api]).await;
}

/// Asks for one line after the other until nobody answers; says which were answered, and how.
async fn ask_until_nobody_answers(client: Client, who: u32, answers: Arc<AtomicUsize>) -> Vec<(String, u16)> {
    let mut answered = Vec::new();
    for number in 0_u64.. {
        let orderid = format!("o-{who}-{number}");
        let body = line(&orderid, "LAMP", 1).to_string();
        let Ok(answer) = client.ask("POST", "/allocate", &[JSON], body.as_bytes()).await else { break };
        answers.fetch_add(1, Ordering::Relaxed);
        answered.push((orderid, answer.status));
    }
    answered
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_at_the_time_of_a_stop_is_done_and_answered_or_not_answered_at_all() {
    let world =
        World::new("a_request_at_the_time_of_a_stop_is_done_and_answered_or_not_answered_at_all").await;
    let (api, client) = world.api(ROLES, &[]).await;
    add_batch(&client, &batch("b-1", "LAMP", 1_000_000)).await;
    let (mut asking, answers) = (JoinSet::new(), Arc::<AtomicUsize>::default());
    for who in 0..20 {
        asking.spawn(ask_until_nobody_answers(client.clone(), who, answers.clone()));
    }
    let busy = async || answers.load(Ordering::Relaxed) > 200;
    wait_until("requests are answered", DRAINS_WITHIN, busy).await;
    assert!(api.terminate().await.success());

    let allocated = world.allocated_lines().await;
    for (orderid, status) in asking.join_all().await.into_iter().flatten() {
        assert_eq!(status, 202, "{orderid}");
        assert!(allocated.contains_key(&(orderid.clone(), "LAMP".into())), "{orderid} is lost");
    }
    let relay = world.start(&["run", "--only", "relay"], &[]);
    world.settled(allocated.len() + 1).await;
    world.close_after([relay]).await;
}

async fn wait_for_readiness(client: &Client, status: u16) {
    let ready = async || client.get("/health/ready").await.status;
    wait_for("readiness is told", Duration::from_secs(10), &status, ready).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_clients_are_asked_to_come_back() {
    let world = World::new("while_the_database_is_away_clients_are_asked_to_come_back").await;
    let proxy = Proxy::to(&world.database_url(), 5432).await;
    let (api, client) = world.api(ROLES, &[("DATABASE_URL", proxy.url())]).await;
    add_batch(&client, &batch("b-1", "LAMP", 10)).await;
    proxy.refuse(true);
    proxy.cut();

    let wanted = line("o-1", "LAMP", 2);
    let not_now = [
        post_as(&client, "k-1", "/allocate", &wanted).await,
        client.get("/orders/o-1").await,
        client.get("/allocations/o-1").await,
        client.get("/availability/LAMP").await,
    ];
    for answer in not_now {
        let answer = answer.has(503);
        assert!(answer.header("retry-after").is_some_and(|seconds| seconds.parse::<u32>().is_ok()));
        answer.message();
    }
    client.get("/health/live").await.has(200);
    wait_for_readiness(&client, 503).await;
    assert_eq!(client.get("/health/ready").await.json()["database"], "away");

    proxy.refuse(false);
    let answered = async || post_as(&client, "k-1", "/allocate", &wanted).await.status;
    wait_for("it goes on", Duration::from_secs(10), &202, answered).await;
    wait_for_readiness(&client, 200).await;
    assert_eq!(world.settled(2).await.len(), 1);
    world.close_after([api]).await;
}

/// What somebody is told who begins a request and never ends it.
async fn told_to_a_slow_client(client: &Client, beginning: &[u8]) -> String {
    let mut stream = TcpStream::connect(client.address()).await.unwrap();
    stream.write_all(beginning).await.unwrap();
    let mut told = Vec::new();
    // Whether it is cut off with a reset or in good order is not the point.
    let cut_off = timeout(Duration::from_secs(20), stream.read_to_end(&mut told)).await;
    let _ = cut_off.expect("a slow client is cut off");
    String::from_utf8_lossy(&told).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_ends_its_request_is_cut_off() {
    let world = World::new("a_client_that_never_ends_its_request_is_cut_off").await;
    let (api, client) = world.api(ROLES, &[("ALLOCATION__API__TIMEOUT", "2s")]).await;
    let headers = b"POST /allocate HTTP/1.1\r\nHost: localhost\r\nX-Slow: y";
    let body = b"POST /allocate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
        Content-Length: 100\r\nConnection: close\r\n\r\n{\"orderid\": ";
    let others = async {
        add_batch(&client, &batch("b-1", "LAMP", 10)).await;
        client.get("/availability/LAMP").await.has(200).json()
    };
    let (slow_headers, slow_body, others) =
        tokio::join!(told_to_a_slow_client(&client, headers), told_to_a_slow_client(&client, body), others);
    assert!(!slow_headers.contains("HTTP/1.1 2"), "{slow_headers}");
    assert!(slow_body.starts_with("HTTP/1.1 408"), "{slow_body}");
    assert_eq!(others["backordered"], 0);
    world.settled(1).await;
    world.close_after([api]).await;
}

/// Thirty ask for an order at the same time, and all are told the same; says how long that took.
async fn thirty_are_told(client: &Client, status: u16) -> Duration {
    let (begin, mut asking) = (Instant::now(), JoinSet::new());
    for _ in 0..30 {
        let client = client.clone();
        asking.spawn(async move { client.get("/orders/o-1").await.status });
    }
    assert_eq!(asking.join_all().await, [status; 30]);
    begin.elapsed()
}

/// What was asked on its connections is never answered, not even when the database is there again.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_falls_silent_again_and_again_costs_no_connection_for_good() {
    let world = World::new("a_database_that_falls_silent_again_and_again_costs_no_connection_for_good").await;
    let proxy = Proxy::to(&world.database_url(), 5432).await;
    let settings = [
        ("DATABASE_URL", proxy.url()),
        ("ALLOCATION__API__TIMEOUT", "2s"),
        ("ALLOCATION__DATABASE__PATIENCE", "1s"),
        ("ALLOCATION__DATABASE__MAX_CONNECTIONS", "12"),
    ];
    let (api, client) = world.api("api", &settings).await;
    let relay = world.start(&["run", "--only", "relay"], &[]);
    add_batch(&client, &batch("b-1", "LAMP", 10)).await;
    allocate(&client, "o-1", "LAMP", 2).await;
    for _ in 0..3 {
        thirty_are_told(&client, 200).await; // on connections that the silence catches
        proxy.freeze();
        let (took, ()) = tokio::join!(thirty_are_told(&client, 503), wait_for_readiness(&client, 503));
        assert!(took < Duration::from_secs(4), "{took:?}");
        assert_eq!(client.get("/health/ready").await.has(503).json()["database"], "away");
        client.get("/health/live").await.has(200);

        proxy.forget();
        proxy.thaw();
        let answered = async || client.get("/orders/o-1").await.status;
        wait_for("it goes on", Duration::from_secs(10), &200, answered).await;
    }
    thirty_are_told(&client, 200).await;
    allocate(&client, "o-2", "LAMP", 2).await;
    wait_for_readiness(&client, 200).await;
    assert_eq!(world.settled(3).await.len(), 2);
    world.close_after([api, relay]).await;
}

/// Asks for a line under a key and is gone before there can be an answer, in good order or with a reset.
async fn ask_and_hang_up(client: &Client, key: &str, line: &Value, with_a_reset: bool) {
    let body = line.to_string();
    let request = format!(
        "POST /allocate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Idempotency-Key: {key}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(client.address()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    if with_a_reset {
        stream.set_zero_linger().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_up_has_one_line_or_none_and_who_asks_again_has_one() {
    let world = World::new("who_hangs_up_has_one_line_or_none_and_who_asks_again_has_one").await;
    let (api, client) = world.api(ROLES, &[]).await;
    add_batch(&client, &batch("b-1", "LAMP", 100)).await;
    let placed = json!([{ "sku": "LAMP", "qty": 2, "status": "allocated", "batchref": "b-1" }]);
    for number in 0..20 {
        let (gone, key, orderid) = (format!("gone-{number}"), format!("k-{number}"), format!("o-{number}"));
        let (with_a_reset, wanted) = (number % 2 == 0, line(&orderid, "LAMP", 2));
        ask_and_hang_up(&client, &gone, &line(&gone, "LAMP", 2), with_a_reset).await;
        ask_and_hang_up(&client, &key, &wanted, with_a_reset).await;
        assert_eq!(post_as(&client, &key, "/allocate", &wanted).await.has(202).text(), "OK");
        let order = client.get(&format!("/orders/{orderid}")).await.has(200).json();
        assert_eq!(order["lines"], placed);
    }
    assert!(api.terminate().await.success()); // whatever it had begun is done, or was not begun

    let lines = world.allocated_lines().await;
    assert!((20..=40).contains(&lines.len()), "{lines:?}");
    let events = world.count("select event_sequence from products").await;
    assert_eq!(usize::try_from(events).unwrap(), lines.len());
    assert_eq!(world.count(FAILURES).await, 0);
    let relay = world.start(&["run", "--only", "relay"], &[]);
    world.settled(lines.len() + 1).await;
    world.close_after([relay]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_queue_is_missing_nobody_is_sent_here() {
    let world = World::new("while_a_queue_is_missing_nobody_is_sent_here").await;
    let (api, client) = world.api(ROLES, &[]).await;
    let declared = async || api.log().contains("running roles");
    wait_until("it has declared what there should be", Duration::from_secs(10), declared).await;
    let notifications = world.named("notifications").into();
    world.channel().queue_delete(notifications, QueueDeleteOptions::default()).await.unwrap();
    wait_for_readiness(&client, 503).await;
    let said = client.get("/health/ready").await.has(503).json();
    assert_eq!((&said["ready"], &said["database"]), (&json!(false), &json!("ok")));
    assert_eq!(said["broker"], "away, or lacks a queue");
    client.get("/health/live").await.has(200);
    add_batch(&client, &batch("b-1", "LAMP", 10)).await; // whoever comes all the same

    world.cli(&["topology"]).await.exits(0);
    wait_for_readiness(&client, 200).await;
    world.settled(1).await;
    world.close_after([api]).await;
}

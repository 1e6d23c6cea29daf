//! The HTTP API.

mod access;
mod batching;
mod identity;
mod in_process;
mod limits;
mod outages;
mod shutdown;

use serde_json::{Value, json};

use crate::harness::{Client, JSON, Response, TestSystem};

/// The roles of a process that serves requests and publishes their events.
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
    assert_eq!(client.post("/add_batch", body).await.expect_status(201).text(), "OK");
}

async fn allocate(client: &Client, orderid: &str, sku: &str, qty: u32) {
    assert_eq!(client.post("/allocate", &line(orderid, sku, qty)).await.expect_status(202).text(), "OK");
}

/// Posts with an `Idempotency-Key`.
async fn post_with_key(client: &Client, key: &str, path: &str, body: &Value) -> Response {
    let headers = [JSON, ("Idempotency-Key", key)];
    client.request("POST", path, &headers, body.to_string().as_bytes()).await
}

/// Posts a command that is rejected, and returns the error message.
async fn rejection(client: &Client, path: &str, body: &Value) -> String {
    client.post(path, body).await.expect_status(400).message()
}

/// E1 of the book.
#[tokio::test(flavor = "multi_thread")]
async fn a_posted_line_is_allocated_to_the_batch_that_arrives_first() {
    let system = TestSystem::new("a_posted_line_is_allocated_to_the_batch_that_arrives_first").await;
    let (api, client) = system.api(ROLES, &[]).await;
    for (reference, sku, eta) in
        [("b-may", "LAMP", "2031-05-02"), ("b-april", "LAMP", "2031-04-01"), ("b-vase", "VASE", "2031-03-01")]
    {
        let mut body = batch(reference, sku, 50);
        body["eta"] = json!(eta);
        add_batch(&client, &body).await;
    }
    allocate(&client, "o-1", "LAMP", 3).await;
    let found = client.get("/allocations/o-1").await.expect_status(200).json();
    assert_eq!(found, json!([{ "sku": "LAMP", "batchref": "b-april" }]));
    system.settled(4).await;
    system.close_after([api]).await;
}

/// E2 of the book, and the same for a batch.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_sku_or_batch_returns_400_and_writes_nothing() {
    let system = TestSystem::new("an_unknown_sku_or_batch_returns_400_and_writes_nothing").await;
    let (api, client) = system.api(ROLES, &[]).await;
    let unknown = "Invalid sku NO-SUCH-SKU";
    assert_eq!(rejection(&client, "/allocate", &line("o-1", "NO-SUCH-SKU", 3)).await, unknown);
    let deallocation = json!({ "orderid": "o-1", "sku": "NO-SUCH-SKU" });
    assert_eq!(rejection(&client, "/deallocate", &deallocation).await, unknown);
    let change = json!({ "batchref": "b-9", "qty": 3 });
    assert_eq!(rejection(&client, "/change_batch_quantity", &change).await, "Invalid batchref b-9");

    assert_eq!(client.get("/allocations/o-1").await.expect_status(404).text(), "not found");
    assert_eq!((system.count(FAILURES).await, system.handled().await), (0, 0));
    system.close_after([api]).await;
}

/// R7 of the book, as in its later chapters: a line without stock is no error.
#[tokio::test(flavor = "multi_thread")]
async fn a_line_without_stock_is_accepted_as_a_backorder() {
    let system = TestSystem::new("a_line_without_stock_is_accepted_as_a_backorder").await;
    let (api, client) = system.api(ROLES, &[]).await;
    add_batch(&client, &batch("b-1", "LAMP", 9)).await;
    allocate(&client, "o-1", "LAMP", 10).await;
    assert_eq!(client.get("/allocations/o-1").await.expect_status(404).text(), "not found");
    let order = client.get("/orders/o-1").await.expect_status(200).json();
    let backorder = json!({ "sku": "LAMP", "qty": 10, "status": "backordered", "batchref": null });
    assert_eq!(order, json!({ "orderid": "o-1", "lines": [backorder] }));

    add_batch(&client, &batch("b-2", "LAMP", 10)).await;
    let found = client.get("/allocations/o-1").await.expect_status(200).json();
    assert_eq!(found, json!([{ "sku": "LAMP", "batchref": "b-2" }]));
    system.settled(3).await;
    system.close_after([api]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_eta_may_be_null_absent_a_date_or_a_timestamp() {
    let system = TestSystem::new("an_eta_may_be_null_absent_a_date_or_a_timestamp").await;
    let (api, client) = system.api(ROLES, &[]).await;
    add_batch(&client, &json!({ "ref": "b-1", "sku": "LAMP", "qty": 1 })).await;
    for (reference, eta) in [
        ("b-2", Value::Null),
        ("b-3", json!("2031-02-28")),
        ("b-4", json!("2031-02-28T23:59:59+02:00")),
        ("b-5", json!("2031-02-28 08:30:00")),
    ] {
        add_batch(&client, &json!({ "ref": reference, "sku": "LAMP", "qty": 1, "eta": eta })).await;
    }
    let availability = client.get("/availability/LAMP").await.expect_status(200).json();
    let batches: Vec<_> = availability["batches"]
        .as_array()
        .unwrap()
        .iter()
        .map(|batch| (batch["batchref"].as_str().unwrap(), batch["eta"].as_str()))
        .collect();
    let day = Some("2031-02-28");
    assert_eq!(batches, [("b-1", None), ("b-2", None), ("b-3", day), ("b-4", day), ("b-5", day)]);
    system.settled(5).await;
    system.close_after([api]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_deallocated_and_batch_quantities_are_changed() {
    let system = TestSystem::new("lines_are_deallocated_and_batch_quantities_are_changed").await;
    let (api, client) = system.api(ROLES, &[]).await;
    add_batch(&client, &batch("b-1", "LAMP", 10)).await;
    allocate(&client, "o-1", "LAMP", 10).await;
    allocate(&client, "o-2", "LAMP", 4).await;
    let deallocation = json!({ "orderid": "o-1", "sku": "LAMP" });
    for _ in 0..2 {
        assert_eq!(client.post("/deallocate", &deallocation).await.expect_status(202).text(), "OK");
    }
    client.get("/orders/o-1").await.expect_status(404).message();
    assert_eq!(client.get("/allocations/o-2").await.expect_status(200).json()[0]["batchref"], "b-1");

    let change = json!({ "batchref": "b-1", "qty": 3 });
    assert_eq!(client.post("/change_batch_quantity", &change).await.expect_status(202).text(), "OK");
    assert_eq!(
        client.get("/orders/o-2").await.expect_status(200).json()["lines"][0]["status"],
        "backordered"
    );
    let events = system.settled(6).await;
    let published: Vec<_> = events.iter().map(|event| (event.kind(), event.field("orderid"))).collect();
    let expected = [
        ("allocated", "o-1"),
        ("out_of_stock", "o-2"),
        ("deallocated", "o-1"),
        ("allocated", "o-2"),
        ("deallocated", "o-2"),
        ("out_of_stock", "o-2"),
    ];
    assert_eq!(published, expected);
    system.close_after([api]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_command_returns_400_and_a_repeated_one_succeeds() {
    let system = TestSystem::new("a_rejected_command_returns_400_and_a_repeated_one_succeeds").await;
    let (api, client) = system.api(ROLES, &[]).await;
    for _ in 0..2 {
        add_batch(&client, &batch("b-1", "LAMP", 10)).await;
        allocate(&client, "o-1", "LAMP", 2).await;
    }
    let other_quantity = rejection(&client, "/allocate", &line("o-1", "LAMP", 3)).await;
    assert_eq!(other_quantity, "order o-1 already has a line of 2 LAMP; it cannot become 3");
    for other in [batch("b-1", "LAMP", 11), batch("b-1", "VASE", 10)] {
        let other_batch = rejection(&client, "/add_batch", &other).await;
        assert_eq!(other_batch, "batch b-1 already exists with another sku, quantity or eta");
    }
    assert_eq!(system.count("select allocated::bigint from batches").await, 2);
    assert_eq!(system.count(FAILURES).await, 0);
    system.settled(4).await;
    system.close_after([api]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_repeated_with_its_key_has_the_same_response_and_one_effect() {
    let system =
        TestSystem::new("a_request_repeated_with_its_key_has_the_same_response_and_one_effect").await;
    let (api, client) = system.api(ROLES, &[]).await;
    for key in ["", " ", &"k".repeat(201)] {
        let rejected = post_with_key(&client, key, "/allocate", &line("o-1", "LAMP", 2))
            .await
            .expect_status(400)
            .message();
        assert!(rejected.contains("Idempotency-Key"), "{rejected}");
    }
    for key in ["k-1", &"k".repeat(200), "schlüssel"] {
        for _ in 0..3 {
            // The same key is used in two queues, with one inbox each.
            let body = batch(&format!("b-{}", key.len()), "LAMP", 10);
            assert_eq!(
                post_with_key(&client, key, "/add_batch", &body).await.expect_status(201).text(),
                "OK"
            );
            let body = line(&format!("o-{}", key.len()), "LAMP", 2);
            assert_eq!(post_with_key(&client, key, "/allocate", &body).await.expect_status(202).text(), "OK");
        }
    }
    assert_eq!(system.count(FAILURES).await, 0);
    assert_eq!(system.settled(6).await.len(), 3);
    system.close_after([api]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_command_can_be_repeated_with_its_key_after_its_cause_is_fixed() {
    let system =
        TestSystem::new("a_rejected_command_can_be_repeated_with_its_key_after_its_cause_is_fixed").await;
    let (api, client) = system.api(ROLES, &[]).await;
    let line = line("o-1", "LAMP", 2);
    for _ in 0..2 {
        let rejected = post_with_key(&client, "k-1", "/allocate", &line).await.expect_status(400).message();
        assert_eq!(rejected, "Invalid sku LAMP");
    }
    add_batch(&client, &batch("b-1", "LAMP", 10)).await;
    for _ in 0..2 {
        post_with_key(&client, "k-1", "/allocate", &line).await.expect_status(202);
    }
    assert_eq!(system.count(FAILURES).await, 0);
    assert_eq!(system.settled(2).await.len(), 1);
    system.close_after([api]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_and_availability_show_lines_and_batches() {
    let system = TestSystem::new("orders_and_availability_show_lines_and_batches").await;
    let (api, client) = system.api(ROLES, &[]).await;
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
    let order = client.get("/orders/o-1").await.expect_status(200).json();
    assert_eq!(order, json!({ "orderid": "o-1", "lines": lines }));
    let batches = json!([
        { "batchref": "b-stock", "eta": null, "purchased": 10, "allocated": 10, "available": 0 },
        { "batchref": "b-early", "eta": "2031-01-01", "purchased": 5, "allocated": 0, "available": 5 },
        { "batchref": "b-late", "eta": "2031-06-01", "purchased": 7, "allocated": 6, "available": 1 },
    ]);
    let availability = client.get("/availability/LAMP").await.expect_status(200).json();
    assert_eq!(availability, json!({ "sku": "LAMP", "batches": batches, "backordered": 150 }));
    client.get("/availability/NO-SUCH-SKU").await.expect_status(404).message();
    client.get("/orders/o-9").await.expect_status(404).message();
    system.settled(9).await;
    system.close_after([api]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_may_contain_any_character_that_a_path_can_encode() {
    let system = TestSystem::new("names_may_contain_any_character_that_a_path_can_encode").await;
    let (api, client) = system.api(ROLES, &[]).await;
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
        let order = client.get(&format!("/orders/{path}")).await.expect_status(200).json();
        assert_eq!((&order["orderid"], &order["lines"][0]["sku"]), (&json!(name), &json!(name)));
        let found = client.get(&format!("/allocations/{path}")).await.expect_status(200).json();
        assert_eq!(found, json!([{ "sku": name, "batchref": format!("b of {name}") }]));
        let availability = client.get(&format!("/availability/{path}")).await.expect_status(200).json();
        assert_eq!(
            (&availability["sku"], &availability["batches"][0]["available"]),
            (&json!(name), &json!(9))
        );
    }
    system.settled(2 * names.len()).await;
    system.close_after([api]).await;
}

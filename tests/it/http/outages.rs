//! Many concurrent requests, disconnected clients, and unavailable servers.

use std::time::{Duration, Instant};

use lapin::options::QueueDeleteOptions;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, task::JoinSet};

use crate::harness::{Client, Proxy, TestSystem, wait_for, wait_until};

use super::{FAILURES, ROLES, add_batch, allocate, batch, line, post_with_key};

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_concurrent_requests_for_one_sku_are_all_answered() {
    let system = TestSystem::new("a_thousand_concurrent_requests_for_one_sku_are_all_answered").await;
    let (api, client) = system.api(ROLES, &[]).await;
    add_batch(&client, &batch("b-1", "LAMP", 500)).await;
    let mut requests = JoinSet::new();
    for number in 0..1000 {
        let client = client.clone();
        requests.spawn(async move {
            let line = line(&format!("o-{number}"), "LAMP", 1);
            client.post("/allocate", &line).await.expect_status(202).text()
        });
    }
    let responses = requests.join_all().await;
    assert_eq!(responses.len(), 1000);
    assert!(responses.iter().all(|response| response == "OK"));

    let events = system.settled(1001).await;
    let of = |kind: &str| events.iter().filter(|event| event.kind() == kind).count();
    assert_eq!((of("allocated"), of("out_of_stock"), events.len()), (500, 500, 1000));
    assert_eq!(system.allocated_lines().await.len(), 500);
    let availability = client.get("/availability/LAMP").await.expect_status(200).json();
    assert_eq!(
        (&availability["batches"][0]["available"], &availability["backordered"]),
        (&json!(0), &json!(500))
    );
    system.close_after([api]).await;
}

async fn wait_for_readiness(client: &Client, status: u16) {
    let ready = async || client.get("/health/ready").await.status;
    wait_for("readiness", Duration::from_secs(10), &status, ready).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_asked_to_retry_while_the_database_is_unavailable() {
    let system = TestSystem::new("clients_are_asked_to_retry_while_the_database_is_unavailable").await;
    let proxy = Proxy::to(&system.database_url(), 5432).await;
    let (api, client) = system.api(ROLES, &[("DATABASE_URL", proxy.url())]).await;
    add_batch(&client, &batch("b-1", "LAMP", 10)).await;
    proxy.refuse(true);
    proxy.cut();

    let line = line("o-1", "LAMP", 2);
    let responses = [
        post_with_key(&client, "k-1", "/allocate", &line).await,
        client.get("/orders/o-1").await,
        client.get("/allocations/o-1").await,
        client.get("/availability/LAMP").await,
    ];
    for response in responses {
        let response = response.expect_status(503);
        assert!(response.header("retry-after").is_some_and(|seconds| seconds.parse::<u32>().is_ok()));
        response.message();
    }
    client.get("/health/live").await.expect_status(200);
    wait_for_readiness(&client, 503).await;
    let ready = client.get("/health/ready").await.json();
    assert_eq!(ready["database"], "unavailable");
    let since = ready["since"].as_object().unwrap();
    assert!(since.contains_key("database") && !since.contains_key("broker"), "{ready}");

    proxy.refuse(false);
    let answered = async || post_with_key(&client, "k-1", "/allocate", &line).await.status;
    wait_for("requests are handled again", Duration::from_secs(10), &202, answered).await;
    wait_for_readiness(&client, 200).await;
    assert_eq!(system.settled(2).await.len(), 1);
    system.close_after([api]).await;
}

/// Sends thirty concurrent requests and asserts the status of the responses. Returns the duration.
async fn thirty_get(client: &Client, status: u16) -> Duration {
    let (begin, mut requests) = (Instant::now(), JoinSet::new());
    for _ in 0..30 {
        let client = client.clone();
        requests.spawn(async move { client.get("/orders/o-1").await.status });
    }
    assert_eq!(requests.join_all().await, [status; 30]);
    begin.elapsed()
}

/// Statements on the connections of that time are never answered, not even after the database is available again.
#[tokio::test(flavor = "multi_thread")]
async fn repeated_freezes_of_the_database_leak_no_connection() {
    let system = TestSystem::new("repeated_freezes_of_the_database_leak_no_connection").await;
    let proxy = Proxy::to(&system.database_url(), 5432).await;
    let settings = [
        ("DATABASE_URL", proxy.url()),
        ("ALLOCATION__API__TIMEOUT", "2s"),
        ("ALLOCATION__DATABASE__TIMEOUT", "1s"),
        ("ALLOCATION__DATABASE__MAX_CONNECTIONS", "12"),
    ];
    let (api, client) = system.api("api", &settings).await;
    let relay = system.start(&["run", "--only", "relay"], &[]);
    add_batch(&client, &batch("b-1", "LAMP", 10)).await;
    allocate(&client, "o-1", "LAMP", 2).await;
    for _ in 0..2 {
        thirty_get(&client, 200).await; // opens the connections that will freeze
        proxy.freeze();
        let (took, ()) = tokio::join!(thirty_get(&client, 503), wait_for_readiness(&client, 503));
        assert!(took < Duration::from_secs(4), "{took:?}");
        assert_eq!(client.get("/health/ready").await.expect_status(503).json()["database"], "unavailable");
        client.get("/health/live").await.expect_status(200);

        proxy.drop_data();
        proxy.thaw();
        let answered = async || client.get("/orders/o-1").await.status;
        wait_for("requests are handled again", Duration::from_secs(10), &200, answered).await;
    }
    thirty_get(&client, 200).await;
    allocate(&client, "o-2", "LAMP", 2).await;
    wait_for_readiness(&client, 200).await;
    assert_eq!(system.settled(3).await.len(), 2);
    system.close_after([api, relay]).await;
}

/// Sends a line with a key and disconnects before the response, with or without a reset.
async fn send_and_disconnect(client: &Client, key: &str, line: &Value, with_a_reset: bool) {
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
async fn a_disconnected_client_can_retry_with_the_same_key() {
    let system = TestSystem::new("a_disconnected_client_can_retry_with_the_same_key").await;
    let (api, client) = system.api(ROLES, &[]).await;
    add_batch(&client, &batch("b-1", "LAMP", 100)).await;
    let allocated = json!([{ "sku": "LAMP", "qty": 2, "status": "allocated", "batchref": "b-1" }]);
    for number in 0..20 {
        let (abandoned, key, orderid) =
            (format!("abandoned-{number}"), format!("k-{number}"), format!("o-{number}"));
        let (with_a_reset, body) = (number % 2 == 0, line(&orderid, "LAMP", 2));
        send_and_disconnect(&client, &abandoned, &line(&abandoned, "LAMP", 2), with_a_reset).await;
        send_and_disconnect(&client, &key, &body, with_a_reset).await;
        assert_eq!(post_with_key(&client, &key, "/allocate", &body).await.expect_status(202).text(), "OK");
        let order = client.get(&format!("/orders/{orderid}")).await.expect_status(200).json();
        assert_eq!(order["lines"], allocated);
    }
    assert!(api.terminate().await.success()); // a shutdown finishes what has begun

    let lines = system.allocated_lines().await;
    assert!((20..=40).contains(&lines.len()), "{lines:?}");
    let events = system.count("select event_sequence from products").await;
    assert_eq!(usize::try_from(events).unwrap(), lines.len());
    assert_eq!(system.count(FAILURES).await, 0);
    let relay = system.start(&["run", "--only", "relay"], &[]);
    system.settled(lines.len() + 1).await;
    system.close_after([relay]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_fails_while_a_queue_is_missing() {
    let system = TestSystem::new("readiness_fails_while_a_queue_is_missing").await;
    let (api, client) = system.api(ROLES, &[]).await;
    let declared = async || api.log().contains("running roles");
    wait_until("the queues are declared", Duration::from_secs(10), declared).await;
    let notifications = system.named("notifications").into();
    system.channel().queue_delete(notifications, QueueDeleteOptions::default()).await.unwrap();
    wait_for_readiness(&client, 503).await;
    let health = client.get("/health/ready").await.expect_status(503).json();
    assert_eq!((&health["ready"], &health["database"]), (&json!(false), &json!("ok")));
    assert_eq!(health["broker"], "unavailable, or a queue is missing");
    client.get("/health/live").await.expect_status(200);
    add_batch(&client, &batch("b-1", "LAMP", 10)).await; // requests are still handled

    system.cli(&["topology"]).await.exits(0);
    wait_for_readiness(&client, 200).await;
    system.settled(1).await;
    system.close_after([api]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_fails_while_the_schema_version_does_not_match() {
    let system = TestSystem::new("readiness_fails_while_the_schema_version_does_not_match").await;
    let (api, client) = system.api(ROLES, &[]).await;
    let last = "delete from _sqlx_migrations where version = (select max(version) from _sqlx_migrations)";
    sqlx::raw_sql(last).execute(&system.pool).await.unwrap();
    wait_for_readiness(&client, 503).await;
    let health = client.get("/health/ready").await.expect_status(503).json();
    assert_eq!((&health["ready"], &health["database"]), (&json!(false), &json!("ok")));
    assert_eq!(health["schema"], "mismatch");
    client.get("/health/live").await.expect_status(200);
    system.close_after([api]).await;
}

//! Crowds, clients that hang up, and servers that become unavailable.

use std::time::{Duration, Instant};

use lapin::options::QueueDeleteOptions;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, task::JoinSet};

use crate::harness::{Client, Proxy, TestSystem, wait_for, wait_until};

use super::{FAILURES, ROLES, add_batch, allocate, batch, line, post_as};

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_requests_for_one_sku_at_once_are_all_answered() {
    let system = TestSystem::new("a_thousand_requests_for_one_sku_at_once_are_all_answered").await;
    let (api, client) = system.api(ROLES, &[]).await;
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

    let events = system.settled(1001).await;
    let of = |kind: &str| events.iter().filter(|event| event.kind() == kind).count();
    assert_eq!((of("allocated"), of("out_of_stock"), events.len()), (500, 500, 1000));
    assert_eq!(system.allocated_lines().await.len(), 500);
    let there_is = client.get("/availability/LAMP").await.has(200).json();
    assert_eq!((&there_is["batches"][0]["available"], &there_is["backordered"]), (&json!(0), &json!(500)));
    system.close_after([api]).await;
}

async fn wait_for_readiness(client: &Client, status: u16) {
    let ready = async || client.get("/health/ready").await.status;
    wait_for("readiness", Duration::from_secs(10), &status, ready).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_clients_are_asked_to_come_back() {
    let system = TestSystem::new("while_the_database_is_away_clients_are_asked_to_come_back").await;
    let proxy = Proxy::to(&system.database_url(), 5432).await;
    let (api, client) = system.api(ROLES, &[("DATABASE_URL", proxy.url())]).await;
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
    assert_eq!(client.get("/health/ready").await.json()["database"], "unavailable");

    proxy.refuse(false);
    let answered = async || post_as(&client, "k-1", "/allocate", &wanted).await.status;
    wait_for("it goes on", Duration::from_secs(10), &202, answered).await;
    wait_for_readiness(&client, 200).await;
    assert_eq!(system.settled(2).await.len(), 1);
    system.close_after([api]).await;
}

/// Sends thirty concurrent requests, which all get the same status; returns the time that it took.
async fn thirty_get(client: &Client, status: u16) -> Duration {
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
    let system =
        TestSystem::new("a_database_that_falls_silent_again_and_again_costs_no_connection_for_good").await;
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
        thirty_get(&client, 200).await; // on connections that the silence catches
        proxy.freeze();
        let (took, ()) = tokio::join!(thirty_get(&client, 503), wait_for_readiness(&client, 503));
        assert!(took < Duration::from_secs(4), "{took:?}");
        assert_eq!(client.get("/health/ready").await.has(503).json()["database"], "unavailable");
        client.get("/health/live").await.has(200);

        proxy.forget();
        proxy.thaw();
        let answered = async || client.get("/orders/o-1").await.status;
        wait_for("it goes on", Duration::from_secs(10), &200, answered).await;
    }
    thirty_get(&client, 200).await;
    allocate(&client, "o-2", "LAMP", 2).await;
    wait_for_readiness(&client, 200).await;
    assert_eq!(system.settled(3).await.len(), 2);
    system.close_after([api, relay]).await;
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
    let system = TestSystem::new("who_hangs_up_has_one_line_or_none_and_who_asks_again_has_one").await;
    let (api, client) = system.api(ROLES, &[]).await;
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
    let said = client.get("/health/ready").await.has(503).json();
    assert_eq!((&said["ready"], &said["database"]), (&json!(false), &json!("ok")));
    assert_eq!(said["broker"], "unavailable, or a queue is missing");
    client.get("/health/live").await.has(200);
    add_batch(&client, &batch("b-1", "LAMP", 10)).await; // requests are handled all the same

    system.cli(&["topology"]).await.exits(0);
    wait_for_readiness(&client, 200).await;
    system.settled(1).await;
    system.close_after([api]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_schema_does_not_fit_the_process_is_not_ready() {
    let system = TestSystem::new("while_the_schema_does_not_fit_the_process_is_not_ready").await;
    let (api, client) = system.api(ROLES, &[]).await;
    let last = "delete from _sqlx_migrations where version = (select max(version) from _sqlx_migrations)";
    sqlx::raw_sql(last).execute(&system.pool).await.unwrap();
    wait_for_readiness(&client, 503).await;
    let answer = client.get("/health/ready").await.has(503).json();
    assert_eq!((&answer["ready"], &answer["database"]), (&json!(false), &json!("ok")));
    assert_eq!(answer["schema"], "mismatch");
    client.get("/health/live").await.has(200);
    system.close_after([api]).await;
}

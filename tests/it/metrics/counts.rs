//! Each outcome is counted exactly once.

use lapin::options::{BasicGetOptions, BasicRejectOptions};
use serde_json::json;

use crate::harness::{
    ANY_PORT, Metrics, SOON, Scrape, TestSystem, allocate, create_batch, properties, wait_for,
};

const TWO_ATTEMPTS: [(&str, &str); 3] = [
    ("ALLOCATION__RETRY__MAX_ATTEMPTS", "2"),
    ("ALLOCATION__RETRY__INITIAL_INTERVAL", "10ms"),
    ("ALLOCATION__SMTP__URL", ""),
];

/// What became of the messages.
const MESSAGES: [(&str, f64); 9] = [
    (r#"queue="notifications",type="out_of_stock",source="queue",outcome="handled""#, 1.0),
    (r#"queue="orders",type="allocate",source="http",outcome="handled""#, 1.0),
    (r#"queue="orders",type="allocate",source="http",outcome="rejected""#, 1.0),
    (r#"queue="orders",type="allocate",source="queue",outcome="dead""#, 1.0),
    (r#"queue="orders",type="allocate",source="queue",outcome="duplicate""#, 1.0),
    (r#"queue="orders",type="allocate",source="queue",outcome="handled""#, 2.0),
    (r#"queue="orders",type="allocate",source="queue",outcome="retrying""#, 1.0),
    (r#"queue="orders",type="other",source="queue",outcome="dead""#, 1.0),
    (r#"queue="stock",type="create_batch",source="queue",outcome="handled""#, 1.0),
];

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_counted_by_their_outcome() {
    let system = TestSystem::new("messages_are_counted_by_their_outcome").await;
    let (process, client) =
        system.api("worker,relay,notifier,api", &[&TWO_ATTEMPTS[..], &[ANY_PORT]].concat()).await;
    let metrics = Metrics::of(&process).await;
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    system.wait_handled(1).await;
    // Handled, handled with a backorder, a duplicate, rejected at both attempts, and of an unknown type.
    let line = allocate("o-1", "LAMP", 3);
    system.sender.send_all(&[line.clone(), allocate("o-2", "LAMP", 100)]).await;
    system.wait_handled(3).await;
    system.sender.send(&line).await;
    system.sender.send(&allocate("o-3", "SOFA", 1)).await;
    system.sender.publish_raw("allocate", properties("frobnicate", "unknown"), b"{}").await;
    // The same over HTTP: handled, and rejected.
    client.post("/allocate", &json!({ "orderid": "o-4", "sku": "LAMP", "qty": 1 })).await.expect_status(202);
    client.post("/allocate", &json!({ "orderid": "o-5", "sku": "SOFA", "qty": 1 })).await.expect_status(400);
    client.get("/nothing").await.expect_status(404);
    system.expect_dead(2);

    let found = async || owned(&metrics.scrape().await.nonzero("messages_total"));
    wait_for("all outcomes are counted", SOON, &owned(&MESSAGES), found).await;
    metrics.wait_for(r#"events_total{outcome="confirmed"}"#, Some(3.0)).await;
    assert_others(&metrics.scrape().await);
    system.close_after([process]).await;
}

/// The other metrics of the same messages.
fn assert_others(scrape: &Scrape) {
    let reasons =
        [(r#"queue="orders",reason="rejected""#, 1.0), (r#"queue="orders",reason="unknown_command""#, 1.0)];
    assert_eq!(scrape.nonzero("dead_letters_total"), reasons);
    assert_eq!(scrape.nonzero("retries_total"), [(r#"outcome="confirmed""#, 1.0)]);
    assert_eq!(scrape.nonzero("notifications_total"), [(r#"outcome="sent""#, 1.0)]);
    assert_eq!(scrape.nonzero("units_of_work_failed_total"), []);
    assert_eq!(scrape.nonzero("redelivered_total"), []);
    // The handler ran once for each message that was handled or rejected.
    assert_eq!(scrape.get(r#"handling_seconds_count{type="allocate"}"#), Some(6.0));
    assert_eq!(scrape.get(r#"handling_seconds_count{type="other"}"#), Some(0.0));
    assert_eq!(scrape.get("event_delay_seconds_count"), Some(3.0));
    for (series, count) in [
        (r#"route="/allocate",method="POST",class="2xx""#, 1.0),
        (r#"route="/allocate",method="POST",class="4xx""#, 1.0),
        (r#"route="other",method="GET",class="4xx""#, 1.0),
    ] {
        assert_eq!(scrape.get(&format!(r#"http_requests_total{{listener="api",{series}}}"#)), Some(count));
    }
    let commands: f64 = scrape
        .nonzero("unit_of_work_commands_sum")
        .iter()
        .filter(|(labels, _)| labels.contains("orders"))
        .map(|(_, commands)| commands)
        .sum();
    assert!((commands - 8.0).abs() < 0.1, "each message was in one committed unit of work: {commands}");
}

fn owned(samples: &[(&str, f64)]) -> Vec<(String, f64)> {
    samples.iter().map(|(labels, value)| ((*labels).to_owned(), *value)).collect()
}

/// The message was delivered before, and four processes began it and did not end it.
#[tokio::test(flavor = "multi_thread")]
async fn redeliveries_interrupted_starts_and_crash_loops_are_counted() {
    let system = TestSystem::new("redeliveries_interrupted_starts_and_crash_loops_are_counted").await;
    system.sender.send(&allocate("o-1", "LAMP", 1).with_id("crashes")).await;
    let queue = system.named("orders");
    let got = system.channel().basic_get(queue.as_str().into(), BasicGetOptions::default()).await.unwrap();
    got.expect("the message is ready").reject(BasicRejectOptions { requeue: true }).await.unwrap();
    system.execute("insert into message_starts values ('orders', 'crashes', 4)").await;
    system.expect_dead(1);
    let (process, metrics) = system.observed("worker", &[]).await;
    metrics.wait_for(r#"dead_letters_total{queue="orders",reason="crash_loop"}"#, Some(1.0)).await;
    let scrape = metrics.scrape().await;
    assert_eq!(scrape.nonzero("redelivered_total"), [(r#"queue="orders""#, 1.0)]);
    assert_eq!(scrape.nonzero("interrupted_starts_total"), [(r#"queue="orders""#, 1.0)]);
    let dead = [(r#"queue="orders",type="allocate",source="queue",outcome="dead""#, 1.0)];
    assert_eq!(scrape.nonzero("messages_total"), dead);
    system.close_after([process]).await;
}

/// The first command conflicts with what another session holds; its unit of work is rolled back and counted.
#[tokio::test(flavor = "multi_thread")]
async fn failed_units_of_work_and_postponed_commands_are_counted() {
    let system = TestSystem::new("failed_units_of_work_and_postponed_commands_are_counted").await;
    let (process, metrics) = system.observed("worker,relay", &[]).await;
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    system.wait_handled(1).await;
    let mut held = system.pool.begin().await.unwrap();
    sqlx::raw_sql("select from products where sku = 'LAMP' for update").execute(&mut *held).await.unwrap();
    system.sender.send(&allocate("o-1", "LAMP", 1)).await;
    // The scrape is answered while the unit of work waits for the lock.
    let busy = async || {
        let scrape = metrics.scrape().await;
        let in_progress = scrape.get(r#"messages_in_progress{queue="orders"}"#) == Some(1.0);
        in_progress && scrape.get(r#"partition_busy_seconds{queue="orders"}"#) > Some(0.0)
    };
    wait_for("the partition is busy", SOON, &true, busy).await;
    metrics
        .wait_for(
            r#"messages_total{queue="orders",type="allocate",source="queue",outcome="postponed"}"#,
            Some(1.0),
        )
        .await;
    let scrape = metrics.scrape().await;
    assert_eq!(scrape.nonzero("units_of_work_failed_total"), [(r#"queue="orders",cause="locked""#, 1.0)]);
    metrics.wait_for(r#"partition_busy_seconds{queue="orders"}"#, Some(0.0)).await;
    held.rollback().await.unwrap();
    system.settled(2).await;
    let handled = r#"messages_total{queue="orders",type="allocate",source="queue",outcome="handled"}"#;
    metrics.wait_for(handled, Some(1.0)).await;
    metrics.wait_for(r#"messages_in_progress{queue="orders"}"#, Some(0.0)).await;
    system.close_after([process]).await;
}

//! Publications by their outcome.

use crate::harness::{CollectorReply, SOON, TestSystem, TraceCollector, create_batch, wait_until};

const EVENTS: &str = "insert into outbox (name, sku, sequence, body, causation_id, correlation_id, traceparent)
     values ('allocated', 'LAMP', 1, '{}', 'c', 'c', null), ('allocated', 'SOFA', 1, '{}', 'c', 'c', repeat('x', 200000))";

/// A header that is larger than a frame closes the connection: the event is parked, and the other one is published.
#[tokio::test(flavor = "multi_thread")]
async fn parked_and_unroutable_events_are_counted() {
    let system = TestSystem::new("parked_and_unroutable_events_are_counted").await;
    system.stop_observing().await;
    system.execute(EVENTS).await;
    let (relay, metrics) = system.observed("relay", &[]).await;
    metrics.wait_for(r#"events_total{outcome="parked"}"#, Some(1.0)).await;
    metrics.wait_for("outbox_parked", Some(1.0)).await;
    metrics.wait_for(r#"events_total{outcome="unroutable"}"#, Some(1.0)).await;
    let scrape = metrics.scrape().await;
    assert_eq!(scrape.get(r#"events_total{outcome="confirmed"}"#), Some(0.0));
    assert!(scrape.get(r#"events_total{outcome="unconfirmed"}"#) >= Some(1.0), "the connection was closed");
    assert_eq!(scrape.get("event_delay_seconds_count"), Some(1.0), "one event was confirmed");
    system.execute("delete from outbox").await;
    system.close_after([relay]).await;
}

/// Inbox rows, starts and a resolved message are older than their retention.
#[tokio::test(flavor = "multi_thread")]
async fn purged_rows_are_counted() {
    let system = TestSystem::new("purged_rows_are_counted").await;
    system
        .execute(
            "insert into message_starts values ('orders', 'm-1', 1, now() - interval '1 year');
             insert into inbox (queue, message_id, type, fingerprint, handled_at)
             select 'orders', n::text, 'allocate', '', now() - interval '1 year' from generate_series(1, 3) n",
        )
        .await;
    let (relay, metrics) = system.observed("relay", &[]).await;
    metrics.wait_for(r#"purged_rows_total{table="inbox"}"#, Some(3.0)).await;
    let scrape = metrics.scrape().await;
    assert_eq!(scrape.get(r#"purged_rows_total{table="message_starts"}"#), Some(1.0));
    assert_eq!(scrape.get(r#"purged_rows_total{table="failed_messages"}"#), Some(0.0));
    system.close_after([relay]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exported_spans_are_counted() {
    let system = TestSystem::new("exported_spans_are_counted").await;
    let collector = TraceCollector::start(CollectorReply::Accept).await;
    let traces =
        [("ALLOCATION__TRACES__ENDPOINT", collector.endpoint.as_str()), ("ALLOCATION__TRACES__RATIO", "1.0")];
    let (worker, metrics) = system.observed("worker", &traces).await;
    let exported = r#"spans_total{outcome="exported"}"#;
    metrics.wait_for(exported, Some(0.0)).await;
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    system.wait_handled(1).await;
    let counted = async || metrics.scrape().await.get(exported) > Some(0.0);
    wait_until("spans are counted", SOON, counted).await;
    system.close_after([worker]).await;
}

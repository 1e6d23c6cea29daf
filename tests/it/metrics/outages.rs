//! Outages of the servers and lost subscriptions.

use crate::harness::{Proxy, TestSystem, amqp_url};

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_database_is_measured() {
    let system = TestSystem::new("an_outage_of_the_database_is_measured").await;
    let proxy = Proxy::to(&system.database_url(), 5432).await;
    let (process, metrics) = system.observed("worker,relay", &[("DATABASE_URL", proxy.url())]).await;
    metrics.wait_for("outbox_pending", Some(0.0)).await;
    assert_eq!(metrics.scrape().await.nonzero("server_unavailable"), []);
    proxy.refuse(true);
    proxy.cut();
    metrics.wait_for(r#"server_unavailable{server="database"}"#, Some(1.0)).await;
    metrics.wait_for("relay_leader", Some(0.0)).await;
    let seconds = r#"server_unavailable_seconds_total{server="database"}"#;
    let first = metrics.scrape().await;
    let second = metrics.scrape().await;
    assert!(second.get(seconds) > first.get(seconds), "the time of an outage that lasts is counted");
    assert_eq!(second.get("outbox_pending"), None, "a process that does not lead has no gauges of a leader");
    proxy.refuse(false);
    metrics.wait_for(r#"server_unavailable{server="database"}"#, Some(0.0)).await;
    metrics.wait_for("outbox_pending", Some(0.0)).await;
    let (after, later) = (metrics.scrape().await.get(seconds), metrics.scrape().await.get(seconds));
    assert_eq!(after, later, "the outage has ended");
    assert!(after > Some(0.0));
    system.close_after([process]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_subscriptions_are_counted() {
    let system = TestSystem::new("lost_subscriptions_are_counted").await;
    system.expect_redeliveries();
    let proxy = Proxy::to(&amqp_url(), 5672).await;
    let (process, metrics) = system.observed("worker", &[("AMQP_URL", proxy.url())]).await;
    let subscribed = r#"subscribed{queue="orders",queue_kind="main"}"#;
    metrics.wait_for(subscribed, Some(1.0)).await;
    metrics.wait_for(r#"subscribed{queue="stock",queue_kind="main"}"#, Some(1.0)).await;
    assert_eq!(metrics.scrape().await.nonzero("subscriptions_lost_total"), []);
    proxy.refuse(true);
    proxy.cut();
    metrics.wait_for(subscribed, Some(0.0)).await;
    metrics.wait_for(r#"server_unavailable{server="broker"}"#, Some(1.0)).await;
    proxy.refuse(false);
    metrics.wait_for(subscribed, Some(1.0)).await;
    metrics.wait_for(r#"server_unavailable{server="broker"}"#, Some(0.0)).await;
    let lost = [(r#"queue="orders",queue_kind="main""#, 1.0), (r#"queue="stock",queue_kind="main""#, 1.0)];
    metrics.wait_for(r#"subscriptions_lost_total{queue="stock",queue_kind="main"}"#, Some(1.0)).await;
    assert_eq!(metrics.scrape().await.nonzero("subscriptions_lost_total"), lost);
    system.close_after([process]).await;
}

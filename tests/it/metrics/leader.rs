//! The gauges of the leading relay move with the leadership.

use crate::harness::{Metrics, Scrape, TestSystem};

/// The gauges that only the leader has.
const GAUGES: [&str; 8] = [
    "outbox_pending",
    "outbox_oldest_seconds",
    "outbox_parked",
    "failed_message_groups",
    "retries_overdue_seconds",
    r#"failed_messages{queue="orders",status="dead"}"#,
    r#"processes{role="relay"}"#,
    r#"queue_ready{queue="orders",queue_kind="main"}"#,
];

fn gauges(scrape: &Scrape) -> Vec<&'static str> {
    GAUGES.into_iter().filter(|series| scrape.get(series).is_some()).collect()
}

async fn wait_until_measured(metrics: &Metrics) {
    metrics.wait_for("relay_leader", Some(1.0)).await;
    metrics.wait_for("failed_message_groups", Some(1.0)).await;
    metrics.wait_for(r#"queue_consumers{queue="orders",queue_kind="main"}"#, Some(1.0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_leader_has_its_gauges() {
    let system = TestSystem::new("only_the_leader_has_its_gauges").await;
    system.insert_dead_letters(3).await;
    system
        .execute(
            "insert into outbox (name, sku, sequence, body, causation_id, correlation_id, refused, refused_at)
             select 'allocated', 'LAMP', n, '{}', 'c', 'c', case n when 1 then 'too large' end, case n when 1 then now() end
             from generate_series(1, 5) n",
        )
        .await;
    let (worker, _) = system.observed("worker", &[]).await;
    let (first, leading) = system.observed("relay", &[]).await;
    wait_until_measured(&leading).await;
    let scrape = leading.scrape().await;
    assert_eq!(gauges(&scrape), GAUGES);
    for (series, value) in [
        ("outbox_pending", 5.0),
        ("outbox_parked", 1.0),
        // The others wait for the parked event of their SKU.
        ("outbox_oldest_seconds", 0.0),
        ("retries_overdue_seconds", 0.0),
        (r#"failed_messages{queue="orders",status="dead"}"#, 3.0),
        (r#"failed_messages{queue="stock",status="retrying"}"#, 0.0),
        (r#"queue_ready{queue="orders",queue_kind="unreadable"}"#, 0.0),
        (r#"queue_consumers{queue="orders",queue_kind="dead_letter"}"#, 0.0),
    ] {
        assert_eq!(scrape.get(series), Some(value), "{series}");
    }

    let (second, standby) = system.observed("relay", &[]).await;
    standby.wait_for("relay_leader", Some(0.0)).await;
    assert_eq!(gauges(&standby.scrape().await), [""; 0]);
    assert!(first.terminate().await.success());
    wait_until_measured(&standby).await;
    assert_eq!(gauges(&standby.scrape().await), GAUGES);
    system.execute("delete from outbox").await;
    standby.wait_for("outbox_pending", Some(0.0)).await;
    system.close_after([worker, second]).await;
}

/// The database ends the session that leads.
#[tokio::test(flavor = "multi_thread")]
async fn gauges_disappear_when_leadership_is_lost() {
    let system = TestSystem::new("gauges_disappear_when_leadership_is_lost").await;
    let (relay, metrics) = system.observed("relay", &[]).await;
    metrics.wait_for("outbox_pending", Some(0.0)).await;
    let (other, standby) = system.observed("relay", &[]).await;
    standby.wait_for("relay_leader", Some(0.0)).await;
    relay.pause().await;
    standby.wait_for("relay_leader", Some(1.0)).await;
    relay.resume().await;
    metrics.wait_for("relay_leader", Some(0.0)).await;
    assert_eq!(gauges(&metrics.scrape().await), [""; 0]);
    system.close_after([relay, other]).await;
}

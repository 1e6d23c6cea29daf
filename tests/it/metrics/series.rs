//! What metrics contain: a bounded number of series, and nothing of a message.

use std::{collections::BTreeSet, sync::Arc};

use allocation::{
    adapters::{memory::MemoryStore, prometheus::PrometheusObserver},
    ports::{
        observer::{Exposition as _, Listener, Observer as _, Period, Report, RequestReport, SpanDecision},
        queue::{Message, QueueName},
    },
    service::{message_bus::MessageBus, received::ReceivedMessage},
};
use serde_json::json;

use crate::harness::{
    ANY_PORT, HandleAll as _, LIMITS, Metrics, SOON, TestSystem, policy, properties, wait_for,
};

/// The limit of one process.
const MAX_SERIES: usize = 2000;

fn samples(text: &str) -> usize {
    text.lines().filter(|line| !line.starts_with('#')).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn any_number_of_types_makes_a_bounded_number_of_series() {
    let observer = Arc::new(PrometheusObserver::default());
    let bus = MessageBus::new(Arc::new(MemoryStore::default()), policy(), observer.clone());
    for queue in QueueName::ALL {
        let mut messages: Vec<_> = (0..10_000)
            .map(|number| {
                let message = Message {
                    kind: format!("type-{number}"),
                    message_id: Some(format!("{number}")),
                    ..Message::default()
                };
                ReceivedMessage::read(queue, message, number % 2 == 0, LIMITS)
            })
            .collect();
        bus.handle_all(queue, &mut messages).await.unwrap();
    }
    let text = observer.expose(&[]);
    let unknown = r#"messages_total{queue="stock",type="other",source="queue",outcome="dead"} 10000"#;
    assert!(text.contains(unknown), "{text}");
    assert!(samples(&text) < MAX_SERIES / 2, "{} series", samples(&text));
}

/// Each route with each method and status.
#[test]
fn requests_make_a_bounded_number_of_series() {
    const ROUTES: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "other"];
    const METHODS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "other"];
    let observer = PrometheusObserver::default();
    for route in ROUTES {
        for method in METHODS {
            for status in 100..1000 {
                let period = Period { begin: std::time::UNIX_EPOCH, duration: SOON };
                let (listener, traceparent, span) = (Listener::Api, None, SpanDecision::NotRecorded);
                let report = RequestReport { listener, route, method, status, period, traceparent, span };
                observer.observe(&Report::Request(&report));
            }
        }
    }
    let text = observer.expose(&[]);
    assert!(samples(&text) < MAX_SERIES / 2, "{} series", samples(&text));
}

#[test]
fn every_described_metric_is_exposed_and_every_exposed_one_is_described() {
    let observer = PrometheusObserver::default();
    let text = observer.expose(&[]);
    let exposed: BTreeSet<_> = text
        .lines()
        .filter_map(|line| {
            let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
            Some((format!("{name}{}", if kind == "counter" { "_total" } else { "" }), kind.to_owned()))
        })
        .collect();
    let described: BTreeSet<_> = observer
        .descriptions()
        .iter()
        .map(|description| (description.name.clone(), description.kind.to_owned()))
        .collect();
    // A metric without a series has no line.
    assert!(exposed.is_subset(&described), "{exposed:?}");
    assert!(exposed.len() > 10, "{exposed:?}");
}

/// All texts that a sender chooses, and the token.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_contain_nothing_of_a_message_and_no_secret() {
    const CANARY: &str = "canary-9f3a";
    let system = TestSystem::new("metrics_contain_nothing_of_a_message_and_no_secret").await;
    let environment = [ANY_PORT, ("ALLOCATION__RETRY__MAX_ATTEMPTS", "1")];
    let (process, client) = system.api("worker,relay,api", &environment).await;
    let metrics = Metrics::of(&process).await;
    let body = json!({ "orderid": CANARY, "sku": CANARY, "qty": 1 }).to_string();
    for (kind, message_id) in [("allocate", "canary-9f3a-1"), (CANARY, "canary-9f3a-2")] {
        let properties = properties(kind, message_id)
            .with_correlation_id(CANARY.into())
            .with_app_id(CANARY.into())
            .with_content_type(if kind == CANARY { CANARY } else { "application/json" }.into());
        system.sender.publish_raw("allocate", properties, body.as_bytes()).await;
    }
    let headers =
        [("Content-Type", "application/json"), ("Idempotency-Key", CANARY), ("traceparent", CANARY)];
    client.request("POST", "/allocate", &headers, body.as_bytes()).await.expect_status(400);
    client.get(&format!("/orders/{CANARY}")).await.expect_status(404);
    client.request(CANARY, "/allocate", &[], b"").await.expect_status(405);
    client.get(&format!("/{CANARY}")).await.expect_status(404);
    system.expect_dead(2);
    let dead = "select count(*) from failed_messages where status = 'dead'";
    wait_for("both are dead", SOON, &2, async || system.count(dead).await).await;
    metrics.wait_for("failed_message_groups", Some(2.0)).await;
    let scrape = metrics.scrape().await;
    assert!(!scrape.text.contains("canary"), "{}", scrape.text);
    let other = r#"http_requests_total{listener="api",route="/allocate",method="other",class="4xx"}"#;
    assert_eq!(scrape.get(other), Some(1.0));
    for line in scrape.text.lines() {
        assert!(!line.contains("postgres://") && !line.contains("guest"), "{line}");
    }
    system.close_after([process]).await;
}

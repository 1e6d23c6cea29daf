//! One trace from the sender of a command to the subscribers of its events.

use std::collections::BTreeSet;

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

use crate::harness::{CollectorReply, JSON, TestSystem, TraceCollector, allocate, create_batch, wait_until};

use super::{SENDER, context, context_of, send_with, settings, the_only, traceparent};

/// Every link and every parent is an exported span, or that of the sender.
fn assert_resolves(collector: &TraceCollector) {
    let spans = collector.spans();
    let known: BTreeSet<_> = spans.iter().map(context).chain([SENDER]).collect();
    for span in &spans {
        let parent = span.parent.map(|parent| (span.trace_id, parent));
        for target in parent.iter().chain(&span.links) {
            assert!(known.contains(target), "{target:?} is not known: {span:?}");
        }
        assert!(span.begin <= span.end, "{span:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_of_a_sender_continues_through_the_unit_of_work_to_the_events() {
    let system =
        TestSystem::new("the_trace_of_a_sender_continues_through_the_unit_of_work_to_the_events").await;
    let collector = TraceCollector::start(CollectorReply::Accept).await;
    let worker = system.worker_with(&settings(&collector, "0"));
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    system.wait_handled(1).await;
    let line = allocate("o-1", "LAMP", 3);
    send_with(&system, &line, &[("traceparent", &traceparent(SENDER, true)), ("tracestate", "congo=1")])
        .await;
    let event = the_only(system.settled(2).await);

    let queue = system.named("orders");
    let command = the_only(collector.wait_for(&format!("process {queue}"), 1).await);
    assert_eq!(context_of(&event), Some(context(&command)), "the event continues from the command");
    assert_eq!(event.header("tracestate").as_deref(), Some("congo=1"));
    assert_eq!(
        (command.trace_id, command.parent, command.kind),
        (SENDER.0, Some(SENDER.1), SpanKind::Consumer)
    );
    let attributes = &command.attributes;
    assert_eq!(attributes["messaging.system"], "rabbitmq");
    assert_eq!(attributes["messaging.operation.type"], "process");
    assert_eq!(attributes["messaging.destination.name"], queue);
    assert_eq!(attributes["messaging.rabbitmq.destination.routing_key"], "allocate");
    assert_eq!(attributes["messaging.message.id"], line.message_id);
    assert_eq!(attributes["messaging.message.conversation_id"], line.message_id);
    assert_eq!(attributes["messaging.message.body.size"], line.body.to_string().len().to_string());
    assert_eq!(attributes["allocation.outcome"], "handled");

    let unit = the_only(collector.wait_for("unit of work", 1).await);
    assert_eq!((unit.parent, unit.kind), (None, SpanKind::Internal));
    assert_eq!(unit.links, [context(&command)]);
    assert_eq!(command.links, [context(&unit)]);
    assert!(command.begin <= unit.begin && unit.end == command.end, "{command:?} {unit:?}");
    let phases = ["load", "handle", "commit"].map(|name| the_only(collector.named(name)));
    assert!(phases.iter().all(|phase| (phase.trace_id, phase.parent) == (unit.trace_id, Some(unit.span_id))));
    assert_eq!((phases[0].begin, phases[2].end), (unit.begin, unit.end));
    assert_eq!((phases[0].end, phases[1].end), (phases[1].begin, phases[2].begin));

    let sent = the_only(collector.wait_for(&format!("send {}", system.named("events")), 1).await);
    assert_eq!((sent.kind, sent.links.as_slice()), (SpanKind::Client, &[context(&command)][..]));
    assert_eq!(sent.link_attributes[0]["allocation.sequence"], "1");
    assert_eq!(sent.link_attributes[0]["messaging.message.id"], event.id());
    let delay: f64 = sent.link_attributes[0]["allocation.delay_seconds"].parse().unwrap();
    assert!((0.0..60.0).contains(&delay), "{delay}");
    assert_resolves(&collector);
    let resource = collector.resource();
    assert_eq!(resource["service.name"], "allocation");
    assert_eq!(resource["service.namespace"], system.namespace);
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_has_its_own_trace_with_a_link_to_the_sender() {
    let system = TestSystem::new("a_retry_has_its_own_trace_with_a_link_to_the_sender").await;
    let collector = TraceCollector::start(CollectorReply::Accept).await;
    let worker = system.worker_with(
        &[&settings(&collector, "0")[..], &[("ALLOCATION__RETRY__INITIAL_INTERVAL", "1h")]].concat(),
    );
    let line = allocate("o-1", "LAMP", 3);
    send_with(&system, &line, &[("traceparent", &traceparent(SENDER, true))]).await;
    let name = format!("process {}", system.named("orders"));
    let first = the_only(collector.wait_for(&name, 1).await);
    assert_eq!((first.trace_id, first.parent), (SENDER.0, Some(SENDER.1)));
    assert_eq!((first.failed, first.attributes["error.type"].as_str()), (true, "rejected"));
    assert_eq!(
        (first.attributes["allocation.outcome"].as_str(), first.attributes["allocation.attempts"].as_str()),
        ("retrying", "1")
    );
    assert_eq!(first.attributes.get("allocation.generation"), None);

    let trace_id = format!("{:032x}", SENDER.0);
    let shown = system.cli(&["dead-letters", "show", "1", "--json"]).await.exits(0).json();
    assert_eq!(shown["history"][0]["trace_id"], trace_id);
    assert_eq!(first.attributes["allocation.group"], shown["group"]);
    let shown = system.cli(&["dead-letters", "show", "1"]).await.exits(0);
    assert!(shown.stdout().contains(&format!("\n    trace {trace_id}\n")), "{}", shown.stdout());

    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    system.wait_handled(1).await;
    system.cli(&["dead-letters", "retry", "--status", "retrying"]).await.exits(0);
    let event = the_only(system.settled(2).await);
    let both = collector.wait_for(&name, 2).await;
    let second = the_only(both.into_iter().filter(|span| span.span_id != first.span_id).collect());
    assert_ne!(second.trace_id, SENDER.0);
    assert_eq!(second.attributes["allocation.generation"], "1");
    assert_eq!((second.parent, second.links[0]), (None, SENDER));
    assert_eq!(context_of(&event), Some(context(&second)));
    let id = &second.attributes["allocation.failed_message_id"];
    let sent = the_only(collector.wait_for("send retry", 1).await);
    assert_eq!((sent.kind, sent.links.as_slice()), (SpanKind::Client, &[SENDER][..]));
    assert_eq!(&sent.link_attributes[0]["allocation.failed_message_id"], id);
    wait_until("both units of work are exported", crate::harness::SOON, async || {
        collector.named("unit of work").len() == 2
    })
    .await;
    assert_resolves(&collector);
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_continues_the_trace_of_its_client() {
    let system = TestSystem::new("a_request_continues_the_trace_of_its_client").await;
    let collector = TraceCollector::start(CollectorReply::Accept).await;
    let (api, client) = system.api("api,relay", &settings(&collector, "0")).await;
    client.post("/add_batch", &create_batch("b-1", "LAMP", 10).body).await.expect_status(201);
    let traced = traceparent(SENDER, true);
    let headers = [JSON, ("traceparent", traced.as_str())];
    let body = allocate("o-1", "LAMP", 3).body.to_string();
    client.request("POST", "/allocate", &headers, body.as_bytes()).await.expect_status(202);
    let event = the_only(system.settled(2).await);

    let request = the_only(collector.wait_for("POST /allocate", 1).await);
    assert_eq!(
        (request.trace_id, request.parent, request.kind),
        (SENDER.0, Some(SENDER.1), SpanKind::Server)
    );
    assert_eq!(request.attributes["http.request.method"], "POST");
    assert_eq!(request.attributes["http.route"], "/allocate");
    assert_eq!(request.attributes["http.response.status_code"], "202");
    let command = the_only(collector.wait_for(&format!("process {}", system.named("orders")), 1).await);
    assert_eq!((command.trace_id, command.parent), (SENDER.0, Some(request.span_id)));
    assert_eq!(command.attributes["allocation.source"], "http");
    assert_eq!(context_of(&event), Some(context(&command)));
    assert_resolves(&collector);
    system.close_after([api]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_contains_no_value_of_a_body_and_no_error_text() {
    let system = TestSystem::new("a_span_contains_no_value_of_a_body_and_no_error_text").await;
    let collector = TraceCollector::start(CollectorReply::Accept).await;
    let settings = [&settings(&collector, "1")[..], &[("ALLOCATION__RETRY__MAX_ATTEMPTS", "1")]].concat();
    let worker = system.worker_with(&settings);
    system.sender.send(&create_batch("canary-b", "canary-sku", 10).with_id("m-0")).await;
    system.wait_handled(1).await;
    let handled = allocate("canary-o", "canary-sku", 3).with_id("m-1");
    send_with(&system, &handled, &[("tenant", "canary-header")]).await;
    system.sender.send(&allocate("canary-o", "canary-unknown", 3).with_id("m-2")).await;
    system
        .sender
        .publish_raw("allocate", crate::harness::properties("allocate", "m-3"), b"{\"canary-json")
        .await;
    system.expect_dead(2);
    let failed = async || collector.spans().iter().filter(|span| span.failed).count() == 2;
    wait_until("the failures are exported", crate::harness::SOON, failed).await;
    system.settled(2).await;
    collector.wait_for(&format!("send {}", system.named("events")), 1).await;
    let text = collector.text();
    assert!(text.contains("m-1") && text.contains("m-3"), "{text}");
    assert!(!text.contains("canary"), "{text}");
    system.close_after([worker]).await;
}

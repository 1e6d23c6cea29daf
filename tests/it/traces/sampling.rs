//! Which traces are recorded.

use crate::harness::{CollectorReply, TestSystem, TraceCollector, allocate, create_batch};

use super::{SENDER, context, context_of, send_with, settings, the_only, traceparent};

#[tokio::test(flavor = "multi_thread")]
async fn a_command_without_a_decision_is_recorded_with_the_probability_of_the_ratio() {
    let system =
        TestSystem::new("a_command_without_a_decision_is_recorded_with_the_probability_of_the_ratio").await;
    let collector = TraceCollector::start(CollectorReply::Accept).await;
    let worker = system.worker_with(&settings(&collector, "1"));
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    collector.wait_for(&format!("process {}", system.named("stock")), 1).await;
    let unsampled = traceparent(SENDER, false);
    send_with(&system, &allocate("o-1", "LAMP", 1), &[("traceparent", &unsampled)]).await;
    system.settled(2).await;
    system.sender.send(&allocate("o-2", "LAMP", 1)).await;
    let events = system.settled(3).await;
    let command = the_only(collector.wait_for(&format!("process {}", system.named("orders")), 1).await);
    assert_eq!((command.parent, command.links.len()), (None, 1));
    assert_eq!(context_of(&events[1]), Some(context(&command)));
    assert_eq!(events[0].header("traceparent"), Some(unsampled), "the sender's decision is passed on");
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_attempt_is_recorded_in_any_case_unless_that_is_switched_off() {
    let system =
        TestSystem::new("a_failed_attempt_is_recorded_in_any_case_unless_that_is_switched_off").await;
    let once = ("ALLOCATION__RETRY__MAX_ATTEMPTS", "1");
    let collector = TraceCollector::start(CollectorReply::Accept).await;
    let worker = system.worker_with(&[&settings(&collector, "0")[..], &[once]].concat());
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    let unsampled = traceparent(SENDER, false);
    send_with(&system, &allocate("o-1", "NO-SUCH-SKU", 1), &[("traceparent", &unsampled)]).await;
    let failed = the_only(collector.wait_for(&format!("process {}", system.named("orders")), 1).await);
    assert_eq!((failed.parent, failed.links[0], failed.failed), (None, SENDER, true));
    assert_ne!(failed.trace_id, SENDER.0);
    assert_eq!(failed.attributes["error.type"], "rejected");
    system.expect_dead(1);
    let shown = system.cli(&["dead-letters", "show", "1", "--json"]).await.exits(0).json();
    assert_eq!(shown["history"][0]["trace_id"], format!("{:032x}", failed.trace_id));
    assert!(worker.terminate().await.success());
    assert!(collector.named(&format!("process {}", system.named("stock"))).is_empty());

    let silent = TraceCollector::start(CollectorReply::Accept).await;
    let off = ("ALLOCATION__TRACES__KEEP_FAILURES", "false");
    let worker = system.worker_with(&[&settings(&silent, "0")[..], &[once, off]].concat());
    system.sender.send(&allocate("o-2", "NO-SUCH-SKU", 1)).await;
    send_with(&system, &allocate("o-3", "LAMP", 1), &[("traceparent", &traceparent(SENDER, true))]).await;
    system.expect_dead(2);
    system.settled(2).await;
    silent.wait_for(&format!("process {}", system.named("orders")), 1).await;
    let shown = system.cli(&["dead-letters", "show", "2", "--json"]).await.exits(0).json();
    assert_eq!(shown["history"][0]["trace_id"], serde_json::Value::Null);
    assert!(worker.terminate().await.success());
    assert!(silent.spans().iter().all(|span| !span.failed), "{:?}", silent.spans());
    system.close().await;
}

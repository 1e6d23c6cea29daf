//! A collector that fails has no effect but dropped spans.

use std::time::{Duration, Instant};

use tokio::net::TcpListener;

use crate::harness::{CollectorReply, SOON, TestSystem, TraceCollector, Workload, create_batch, wait_until};

/// The order lines of one run.
const LINES: u32 = 500;
/// A stop may wait one second for the collector; the rest is for a busy machine.
const STOPS_WITHIN: Duration = Duration::from_secs(4);
const DROPPED: &str = "spans were dropped: the collector did not take them before the stop";

/// Handles a workload of which every command is recorded, stops the worker, and returns its log.
async fn handle_everything(system: TestSystem, endpoint: &str) -> String {
    let recorded = [("ALLOCATION__TRACES__ENDPOINT", endpoint), ("ALLOCATION__TRACES__RATIO", "1")];
    let worker = system.worker_with(&recorded);
    let workload = Workload::seeded(7, LINES);
    workload.create_batches(&system).await;
    system.sender.send_all(&workload.commands).await;
    workload.assert_all_handled(&system).await;
    let begin = Instant::now();
    let (ended, log) = worker.stop_with("TERM").await;
    assert!(ended.success() && begin.elapsed() < STOPS_WITHIN, "{:?} {log}", begin.elapsed());
    system.close().await;
    assert!(log.matches("spans are not exported").count() <= 1, "{log}");
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_handled_without_a_collector() {
    let system = TestSystem::new("commands_are_handled_without_a_collector").await;
    let address = {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        listener.local_addr().expect("it is bound")
    };
    let log = handle_everything(system, &format!("http://{address}")).await;
    assert!(log.contains(DROPPED), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_handled_while_the_collector_refuses() {
    let system = TestSystem::new("commands_are_handled_while_the_collector_refuses").await;
    let collector = TraceCollector::start(CollectorReply::Status(400)).await;
    handle_everything(system, &collector.endpoint).await;
    assert!(collector.requests() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_handled_while_the_collector_never_answers() {
    let system = TestSystem::new("commands_are_handled_while_the_collector_never_answers").await;
    let collector = TraceCollector::start(CollectorReply::Hang).await;
    let log = handle_everything(system, &collector.endpoint).await;
    assert!(log.contains(DROPPED), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_became_of_spans_is_counted() {
    let system = TestSystem::new("what_became_of_spans_is_counted").await;
    let collector = TraceCollector::start(CollectorReply::Accept).await;
    let recorded =
        [("ALLOCATION__TRACES__ENDPOINT", &*collector.endpoint), ("ALLOCATION__TRACES__RATIO", "1")];
    let (worker, metrics) = system.observed("worker,relay", &recorded).await;
    for (number, (reply, outcome)) in
        [(CollectorReply::Accept, "exported"), (CollectorReply::Status(400), "failed")]
            .into_iter()
            .enumerate()
    {
        collector.set_reply(reply);
        let series = format!("spans_total{{outcome=\"{outcome}\"}}");
        assert_eq!(metrics.scrape().await.get(&series), Some(0.0));
        system.sender.send(&create_batch(&format!("b-{number}"), "LAMP", 1)).await;
        let counted = async || metrics.scrape().await.get(&series) > Some(0.0);
        wait_until("the spans are counted", SOON, counted).await;
    }
    system.close_after([worker]).await;
}

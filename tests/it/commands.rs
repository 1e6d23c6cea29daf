//! Commands through the queues: several workers, shutdowns, kills, concurrent units of work, and the events.

use std::{sync::Arc, time::Duration};

use allocation::service::{message_bus::MessageBus, outcome::CommandOutcome};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};
use serde_json::json;
use tokio::{sync::Barrier, task::JoinSet};
use uuid::Uuid;

use crate::harness::{
    Command, Event, HandleAll as _, TestSystem, Workload, allocate, allocated_by, bus, change_batch_quantity,
    command, create_batch, deallocate, properties, queue_of, wait_until,
};

/// The number of repetitions of a race.
const ROUNDS: u32 = 20;
/// A message that fails once is dead.
const ONE_ATTEMPT: (&str, &str) = ("ALLOCATION__RETRY__MAX_ATTEMPTS", "1");
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[tokio::test(flavor = "multi_thread")]
async fn three_workers_share_5000_commands() {
    let system = TestSystem::new("three_workers_share_5000_commands").await;
    let workers = [system.worker(), system.worker(), system.worker()];
    let workload = Workload::seeded(1, 4000);
    workload.create_batches(&system).await;
    system.sender.send_all(&workload.commands).await;
    workload.assert_all_handled(&system).await;
    system.close_after(workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_finishes_the_commands_in_progress() {
    let system = TestSystem::new("a_shutdown_finishes_the_commands_in_progress").await;
    let workload = Workload::seeded(2, 2500);
    let mut worker = system.worker();
    workload.create_batches(&system).await;
    for part in workload.parts(5) {
        system.send_and_wait_for(part, 50).await;
        let stopped = worker.terminate().await;
        assert!(stopped.success(), "{stopped}");
        worker = system.worker();
    }
    workload.assert_all_handled(&system).await;
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_loses_nothing() {
    let system = TestSystem::new("a_killed_worker_loses_nothing").await;
    system.expect_redeliveries();
    let workload = Workload::seeded(3, 4000);
    let mut worker = system.worker();
    workload.create_batches(&system).await;
    for part in workload.parts(3) {
        // More than the prefetch: no message is unacknowledged at every kill and counts as their cause.
        system.send_and_wait_for(part, 1200).await;
        worker.kill().await;
        worker = system.worker();
    }
    workload.assert_all_handled(&system).await;
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_command_fails_alone_in_its_unit_of_work() {
    let system = TestSystem::new("a_rejected_command_fails_alone_in_its_unit_of_work").await;
    system.expect_dead(1);
    let worker = system.worker();
    system.sender.send(&create_batch("b-1", "LAMP", 1000)).await;
    system.wait_handled(1).await;
    assert!(worker.terminate().await.success());

    let mut waiting: Vec<_> = (0..49).map(|number| allocate(&format!("o-{number}"), "LAMP", 2)).collect();
    waiting.insert(25, allocate("o-rejected", "NO-SUCH-SKU", 2));
    system.sender.send_all(&waiting).await;
    let worker = system.worker_with(&[ONE_ATTEMPT]);
    system.settled(1 + 49).await;
    wait_until("the rejected command is dead", Duration::from_secs(10), async || {
        system.count("select count(*) from failed_messages where status = 'dead'").await == 1
    })
    .await;

    let dead: (String, String, String, i32) =
        sqlx::query_as("select message_id, reason, error, attempts from failed_messages")
            .fetch_one(&system.pool)
            .await
            .unwrap();
    let id = waiting[25].message_id.clone();
    assert_eq!(dead, (id, "rejected".into(), "Invalid sku NO-SUCH-SKU".into(), 1));
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_have_the_documented_content_and_properties() {
    let system = TestSystem::new("events_have_the_documented_content_and_properties").await;
    let worker = system.worker();
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    system.wait_handled(1).await;
    let deallocation = deallocate("o-1", "LAMP");
    system.sender.send(&allocate("o-1", "LAMP", 6)).await;
    system.sender.send(&allocate("o-2", "LAMP", 5)).await;
    system.sender.send(&deallocation).await;
    let events = system.settled(4).await;

    let published: Vec<_> = events.iter().map(|event| (event.kind(), event.body.clone())).collect();
    let line = |orderid: &str, qty: u32| json!({ "orderid": orderid, "sku": "LAMP", "qty": qty });
    let with_batch = |orderid, qty| {
        let mut body = line(orderid, qty);
        body["batchref"] = json!("b-1");
        body
    };
    let expected = [
        ("allocated", with_batch("o-1", 6)),
        ("out_of_stock", line("o-2", 5)),
        ("deallocated", with_batch("o-1", 6)),
        ("allocated", with_batch("o-2", 5)),
    ];
    assert_eq!(published, expected);
    for event in &events {
        assert_properties(&system, event).await;
    }
    let cause = events[3].header("causation_id");
    assert_eq!(cause.as_deref(), Some(deallocation.message_id.as_str()), "the deallocation is the cause");
    system.close_after([worker]).await;
}

/// Asserts the properties that every event has.
async fn assert_properties(system: &TestSystem, event: &Event) {
    let text = |value: &Option<ShortString>| value.as_ref().map(ToString::to_string);
    let sent = &event.properties;
    assert_eq!(event.routing_key, event.kind());
    assert!(Uuid::parse_str(event.id()).is_ok(), "{event:?}");
    assert_eq!(text(sent.content_type()).as_deref(), Some("application/json"));
    assert_eq!(text(sent.app_id()).as_deref(), Some(system.namespace.as_str()));
    assert_eq!(*sent.delivery_mode(), Some(2));
    assert_eq!(
        text(sent.correlation_id()),
        event.header("causation_id"),
        "the message id of a command without a correlation id"
    );
    assert_eq!(event.aggregate_id(), "LAMP");
    assert_eq!(event.header("traceparent"), None);
    let now = system.count("select extract(epoch from now())::bigint").await;
    let at = i64::try_from(sent.timestamp().expect("an event has a timestamp")).expect("the timestamp fits");
    assert!((now - 120..=now).contains(&at), "timestamp {at}, now {now}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_has_the_correlation_id_and_the_trace_of_its_command() {
    let system = TestSystem::new("an_event_has_the_correlation_id_and_the_trace_of_its_command").await;
    let worker = system.worker();
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    system.wait_handled(1).await;
    let mut headers = FieldTable::default();
    headers.insert("traceparent".into(), AMQPValue::LongString(TRACEPARENT.into()));
    headers.insert("tracestate".into(), AMQPValue::LongString("congo=t61rcWkgMzE".into()));
    let line = allocate("o-1", "LAMP", 3);
    let sent = properties(line.kind, &line.message_id)
        .with_correlation_id("checkout-7".into())
        .with_headers(headers);
    system.sender.publish_raw(line.kind, sent, line.body.to_string().as_bytes()).await;

    let events = system.settled(2).await;
    let [event] = &events[..] else { panic!("{events:?}") };
    assert_eq!(event.properties.correlation_id().as_ref().map(ShortString::as_str), Some("checkout-7"));
    assert_eq!(event.header("traceparent").as_deref(), Some(TRACEPARENT));
    assert_eq!(event.header("tracestate").as_deref(), Some("congo=t61rcWkgMzE"));
    assert_eq!(event.header("causation_id"), Some(line.message_id));
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_is_no_traceparent_is_ignored() {
    let system = TestSystem::new("a_header_that_is_no_traceparent_is_ignored").await;
    let worker = system.worker();
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    system.wait_handled(1).await;
    let long = "x".repeat(60_000);
    for trace in [long.as_str(), "", "00-00000000000000000000000000000000-b7ad6b7169203331-01"] {
        let mut headers = FieldTable::default();
        headers.insert("traceparent".into(), AMQPValue::LongString(trace.into()));
        headers.insert("tracestate".into(), AMQPValue::LongString("congo=t61rcWkgMzE".into()));
        let line = allocate(&format!("o-{}", trace.len()), "LAMP", 1);
        let sent = properties(line.kind, &line.message_id).with_headers(headers);
        system.sender.publish_raw(line.kind, sent, line.body.to_string().as_bytes()).await;
    }
    let events = system.settled(4).await;
    assert_eq!(events.len(), 3);
    let traced = |event: &Event| event.header("traceparent").or(event.header("tracestate"));
    assert!(events.iter().all(|event| traced(event).is_none()), "{events:?}");
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_routing_key_is_the_type_of_a_message_without_type() {
    let system = TestSystem::new("the_routing_key_is_the_type_of_a_message_without_type").await;
    let worker = system.worker();
    let without_type = BasicProperties::default().with_message_id("m-1".into());
    let batch = br#"{"ref": "b-1", "sku": "LAMP", "qty": 10}"#;
    system.sender.publish_raw("create_batch", without_type, batch).await;
    system.settled(1).await;
    assert_eq!(system.count("select count(*) from batches").await, 1);
    system.close_after([worker]).await;
}

/// Handles commands of one queue in one unit of work.
async fn handle(bus: &MessageBus, commands: &[Command]) {
    let read = |given: &Command| command(&given.message_id, given.kind, &given.body);
    let mut batch: Vec<_> = commands.iter().map(read).collect();
    let outcomes =
        bus.handle_all(queue_of(&commands[0]), &mut batch).await.expect("the database is available");
    let failed = outcomes.iter().any(|outcome| matches!(outcome, CommandOutcome::Recorded(..)));
    assert!(!failed, "{outcomes:?}");
}

/// Handles several units of work that begin at the same time.
async fn handle_concurrently(bus: &MessageBus, units: Vec<Vec<Command>>) {
    let barrier = Arc::new(Barrier::new(units.len()));
    let mut racing = JoinSet::new();
    for unit in units {
        let (bus, barrier) = (bus.clone(), barrier.clone());
        racing.spawn(async move {
            barrier.wait().await;
            handle(&bus, &unit).await;
        });
    }
    while let Some(ended) = racing.join_next().await {
        ended.expect("a unit of work does not panic");
    }
}

/// A system without a worker, and a message bus in the process of the test.
async fn system_with_bus(name: &str) -> (TestSystem, MessageBus) {
    let system = TestSystem::new(name).await;
    let bus = bus(system.store());
    (system, bus)
}

/// Publishes the events and asserts that they agree with the tables.
async fn finish(system: TestSystem, handled: u32) {
    let relay = system.start(&["run", "--only", "relay"], &[]);
    let events = system.settled(usize::try_from(handled).expect("a count is small")).await;
    assert_eq!(allocated_by(&events), system.allocated_lines().await);
    system.close_after([relay]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_duplicates_of_a_line_have_one_effect() {
    let (system, bus) = system_with_bus("concurrent_duplicates_of_a_line_have_one_effect").await;
    handle(&bus, &[create_batch("b-1", "LAMP", 1000)]).await;
    for round in 0..ROUNDS {
        let line = allocate(&format!("o-{round}"), "LAMP", 3);
        let same_id = line.clone();
        let other_id = line.clone().with_id(&format!("again-{round}"));
        handle_concurrently(&bus, vec![vec![line], vec![same_id], vec![other_id]]).await;
    }
    assert_eq!(system.count("select count(*) from order_lines").await, i64::from(ROUNDS));
    assert_eq!(system.count("select allocated::bigint from batches").await, i64::from(3 * ROUNDS));
    assert_eq!(system.count("select event_sequence from products").await, i64::from(ROUNDS));
    finish(system, 1 + 2 * ROUNDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_first_batches_of_a_sku_create_one_product() {
    let (system, bus) = system_with_bus("concurrent_first_batches_of_a_sku_create_one_product").await;
    for round in 0..ROUNDS {
        let sku = format!("SKU-{round}");
        let batch = create_batch(&format!("b-{round}"), &sku, 10);
        let same = batch.clone().with_id(&format!("again-{round}"));
        let other = create_batch(&format!("other-{round}"), &sku, 10);
        handle_concurrently(&bus, vec![vec![batch], vec![same], vec![other]]).await;
    }
    assert_eq!(system.count("select count(*) from products").await, i64::from(ROUNDS));
    assert_eq!(system.count("select count(*) from batches").await, i64::from(2 * ROUNDS));
    finish(system, 3 * ROUNDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_changes_and_allocations_never_overallocate() {
    let (system, bus) = system_with_bus("concurrent_changes_and_allocations_never_overallocate").await;
    for round in 0..ROUNDS {
        let (sku, batch) = (format!("SKU-{round}"), format!("b-{round}"));
        handle(&bus, &[create_batch(&batch, &sku, 20)]).await;
        let line = |number| vec![allocate(&format!("o-{number}"), &sku, 3)];
        let mut racing: Vec<_> = (0..6).map(line).collect();
        racing.push(vec![change_batch_quantity(&batch, 8)]);
        racing.push(vec![change_batch_quantity(&batch, 15)]);
        handle_concurrently(&bus, racing).await;
        system.assert_consistent().await;
    }
    assert_eq!(system.count("select count(*) from order_lines").await, i64::from(6 * ROUNDS));
    finish(system, 9 * ROUNDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn units_of_work_with_the_same_skus_in_opposite_order_never_deadlock() {
    let (system, bus) =
        system_with_bus("units_of_work_with_the_same_skus_in_opposite_order_never_deadlock").await;
    let skus: Vec<_> = (0..8).map(|number| format!("SKU-{number}")).collect();
    let batches: Vec<_> = skus.iter().map(|sku| create_batch(&format!("b-{sku}"), sku, 1000)).collect();
    handle(&bus, &batches).await;
    for round in 0..ROUNDS {
        let lines = |order: &str| -> Vec<_> {
            skus.iter().map(|sku| allocate(&format!("o-{order}-{round}"), sku, 1)).collect()
        };
        let (forwards, mut backwards) = (lines("a"), lines("b"));
        backwards.reverse();
        handle_concurrently(&bus, vec![forwards, backwards]).await;
    }
    drop(bus);
    // The bus retries a unit of work after a deadlock, so only the server counts it.
    let deadlocks = "select deadlocks from pg_stat_database where datname = current_database()";
    assert_eq!(system.count(deadlocks).await, 0);
    finish(system, 8 + 2 * 8 * ROUNDS).await;
}

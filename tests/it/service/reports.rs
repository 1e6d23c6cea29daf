//! What observers get: one report for each unit of work, with each message and its outcome.

use std::sync::Arc;

use allocation::{
    adapters::memory::MemoryStore,
    ports::{
        observer::{AvailabilityReport, Report, Server},
        queue::{Message, QueueName},
        store::Store as _,
    },
    service::{availability::AvailabilityLog, message_bus::MessageBus, received::ReceivedMessage},
};

use crate::harness::{HandleAll as _, LIMITS, command, policy};

use super::fakes::{
    Call, RecordingObserver, Reply, ScriptedStore, awaited, batch, broken, line, redelivered, rejected,
    unavailable,
};

const ORDERS: QueueName = QueueName::Orders;

fn observed(store: &ScriptedStore) -> (MessageBus, Arc<RecordingObserver>) {
    let observer = Arc::<RecordingObserver>::default();
    (MessageBus::new(Arc::new(store.clone()), policy(), observer.clone()), observer)
}

#[tokio::test]
async fn a_unit_of_work_is_one_report_with_all_its_messages() {
    let (bus, observer) = observed(&ScriptedStore::default());
    let unreadable = command("m4", "allocate", &serde_json::json!([]));
    let mut messages = [batch("m1", "LAMP"), rejected("m2"), batch("m1", "LAMP"), unreadable];
    bus.handle_all(ORDERS, &mut messages).await.unwrap();
    let expected = "Committed queue: m1 handled, m2 retrying rejected attempt 1, m1 duplicate, \
                    m4 dead invalid_message attempt 1";
    assert_eq!(observer.take(), [expected]);
    let mut awaited = [awaited(batch("m5", "SOFA")), awaited(rejected("m6"))];
    bus.handle_all(ORDERS, &mut awaited).await.unwrap();
    assert_eq!(observer.take(), ["Committed http: m5 handled, m6 rejected rejected"]);
}

/// The failure of a message that fails the whole unit of work is recorded in a transaction of its own.
#[tokio::test]
async fn a_failed_unit_of_work_and_its_parts_are_reported() {
    let store = ScriptedStore::default();
    let (bus, observer) = observed(&store);
    // The second line is a backorder, so that a batch loads it.
    bus.handle_all(ORDERS, &mut [batch("m1", "LAMP"), line("m2", "LAMP", 11)]).await.unwrap();
    observer.take();
    store.set_reply(Call::WaitingLines, Reply::Panics);
    bus.handle_all(ORDERS, &mut [line("m4", "LAMP", 1), batch("m3", "LAMP")]).await.unwrap();
    let expected = [
        "Failed(Panic) queue: m4 -, m3 -",
        "Committed queue: m4 handled",
        "Failed(Panic) queue: m3 -",
        "Failure: m3 retrying panic attempt 1",
    ];
    assert_eq!(observer.take(), expected);
}

#[tokio::test]
async fn an_outage_gives_no_message_an_outcome() {
    let store = ScriptedStore::default();
    store.set_next_replies(Call::Commit, [Reply::Fails(unavailable())]);
    let (bus, observer) = observed(&store);
    let mut messages = [batch("m1", "LAMP")];
    bus.handle_all(ORDERS, &mut messages).await.unwrap_err();
    bus.handle_all(ORDERS, &mut messages).await.unwrap();
    assert_eq!(observer.take(), ["Failed(Unavailable) queue: m1 -", "Committed queue: m1 handled"]);
}

/// A commit that fails gives no message an outcome, and each gets one afterwards.
#[tokio::test]
async fn a_failed_commit_is_reported_once() {
    let store = ScriptedStore::default();
    store.set_next_replies(Call::Commit, [Reply::Fails(broken())]);
    let (bus, observer) = observed(&store);
    bus.handle_all(ORDERS, &mut [batch("m1", "LAMP"), batch("m2", "SOFA")]).await.unwrap();
    let expected =
        ["Failed(Store) queue: m1 -, m2 -", "Committed queue: m1 handled", "Committed queue: m2 handled"];
    assert_eq!(observer.take(), expected);
}

#[tokio::test]
async fn a_message_that_crashed_its_workers_is_reported_as_dead() {
    let store = ScriptedStore::default();
    for _ in 0..4 {
        store.record_starts(ORDERS, &["m1".into()]).await.unwrap();
    }
    let (bus, observer) = observed(&store);
    bus.handle_all(ORDERS, &mut [redelivered(batch("m1", "LAMP"))]).await.unwrap();
    let expected = ["InterruptedStarts(Orders, 1)", "Failure: m1 dead crash_loop attempt 1"];
    assert_eq!(observer.take(), expected);
}

/// A report contains ids and traces, and nothing of a body.
#[tokio::test]
async fn a_report_contains_the_trace_and_nothing_of_the_body() {
    let observer = Arc::<RecordingObserver>::default();
    let bus = MessageBus::new(Arc::new(MemoryStore::default()), policy(), observer.clone());
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let traced = |received: ReceivedMessage| {
        let message = Message { traceparent: Some(trace.into()), ..received.message };
        ReceivedMessage::read(ORDERS, message, false, LIMITS)
    };
    let mut messages = [line("m1", "CANARY", 1), rejected("m2")].map(traced);
    bus.handle_all(ORDERS, &mut messages).await.unwrap();
    let whole = observer.whole();
    assert_eq!(whole.matches(trace).count(), 2, "{whole}");
    assert!(!whole.contains("CANARY") && !whole.contains("NO-SUCH-LAMP"), "{whole}");
}

#[test]
fn an_outage_is_reported_when_it_begins_and_when_it_ends() {
    let observer = Arc::<RecordingObserver>::default();
    let log = AvailabilityLog::observed("database", Server::Database, observer.clone());
    log.up();
    log.down(&unavailable());
    log.down(&broken());
    log.up();
    log.up();
    let reports = [false, true].map(|is_available| {
        format!("{:?}", Report::Availability(AvailabilityReport { server: Server::Database, is_available }))
    });
    assert_eq!(observer.take(), reports);
}

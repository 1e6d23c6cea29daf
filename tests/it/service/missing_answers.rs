//! A defect of a port: a list of answers is one too short. No message gets the outcome of another one, or an invented outcome.

use std::{sync::Arc, time::Duration};

use allocation::{
    entrypoints::consumer::Consumer,
    ports::{
        queue::{Message, QueueKind, QueueName},
        store::RetryCheck,
    },
    service::{
        batch_handler::{BatchHandler, HandleError},
        received::ReceivedMessage,
    },
};

use crate::harness::HandleAll as _;

use super::fakes::{
    Call, OmitsFirst, Reply, RunningConsumer, ScriptedNotifier, ScriptedQueues, ScriptedStore, archive,
    batch, bus, consumer, names, notifications, out_of_stock, redelivered, rejected_change, retry,
};

const STOCK: QueueName = QueueName::Stock;

/// The calls that are answered with a list.
const QUESTIONS: [Call; 4] =
    [Call::CheckInbox, Call::CheckRetries, Call::FailedAttempts, Call::UnfinishedStarts];

/// Two redelivered retries, so that every call is made, and a store with their retry marks.
fn messages() -> (ScriptedStore, [ReceivedMessage; 2]) {
    let store = ScriptedStore::default();
    let messages = [(1, "m1"), (2, "m2")].map(|(generation, id)| {
        let (copy, mark) = retry(redelivered(rejected_change(id)), generation);
        store.set_retry_check(mark, RetryCheck::Current);
        copy
    });
    (store, messages)
}

async fn is_detected(handler: &impl BatchHandler, store: &ScriptedStore, messages: &mut [ReceivedMessage]) {
    let interrupted = handler.handle_all(STOCK, messages).await.unwrap_err();
    assert!(matches!(interrupted.error, HandleError::Missing(_)), "{interrupted:?}");
    assert!(interrupted.outcomes.is_empty(), "{interrupted:?}");
    assert_eq!(store.commits(), [], "nothing is committed");
}

#[tokio::test]
async fn a_missing_answer_gives_no_message_an_outcome() {
    for question in QUESTIONS {
        let (store, mut messages) = messages();
        store.set_next_replies(question, [Reply::OneAnswerTooFew]);
        is_detected(&bus(&store), &store, &mut messages).await;
        assert!(store.calls(question) > 0, "{question:?}");
        let outcomes = bus(&store).handle_all(STOCK, &mut messages).await.unwrap();
        assert_eq!(names(&outcomes), ["retry", "retry"], "{question:?}");
    }
}

#[tokio::test]
async fn the_other_handlers_detect_a_missing_answer_as_well() {
    for question in [Call::CheckInbox, Call::FailedAttempts] {
        let (store, messages) = messages();
        store.set_next_replies(question, [Reply::OneAnswerTooFew]);
        is_detected(&archive(&store), &store, &mut messages.clone()).await;
    }
    let (store, notifier) = (ScriptedStore::default(), ScriptedNotifier::default());
    store.set_next_replies(Call::CheckInbox, [Reply::OneAnswerTooFew]);
    is_detected(&notifications(&store, &notifier), &store, &mut [out_of_stock("e1")]).await;
    assert!(notifier.notified().is_empty());
}

/// The messages are not lost, have no unfinished starts, and are handled after the defect is fixed.
#[tokio::test(start_paused = true)]
async fn a_delivery_without_an_outcome_is_not_acknowledged() {
    for question in QUESTIONS {
        let (store, messages) = messages();
        store.set_reply(question, Reply::OneAnswerTooFew);
        let queues = ScriptedQueues::default();
        let bodies: Vec<Message> = messages.into_iter().map(|received| received.message).collect();
        queues.put(bodies);
        queues.mark_all_redelivered();
        let running = RunningConsumer::start(Consumer { max_batch: 10, ..consumer(&queues, &store) });
        tokio::time::sleep(Duration::from_mins(10)).await;
        assert!(queues.acknowledged().is_empty(), "{question:?}");
        assert_eq!(store.commits(), [], "{question:?}");
        let deliveries = queues.delivered();
        assert!((4..40).contains(&deliveries), "{question:?}: {deliveries} deliveries");
        for id in ["m1", "m2"] {
            assert_eq!(store.unfinished_starts(STOCK, id).await, 0, "{question:?}");
        }
        store.set_reply(question, Reply::Does);
        tokio::time::sleep(Duration::from_mins(10)).await;
        assert_eq!(queues.acknowledged(), ["m1", "m2"], "{question:?}");
        running.stop().await;
    }
}

/// The archive and the handler of notifications have no command to handle, and messages that must not be lost.
#[tokio::test(start_paused = true)]
async fn dead_letters_and_notifications_without_an_outcome_are_not_acknowledged() {
    for question in [Call::CheckInbox, Call::CheckRetries, Call::FailedAttempts] {
        let (store, messages) = messages();
        let queues = ScriptedQueues::default();
        let consumer = Consumer {
            queue_kind: QueueKind::DeadLetter,
            handler: Arc::new(archive(&store)),
            max_batch: 10,
            ..consumer(&queues, &store)
        };
        assert_nothing_is_acknowledged(question, &store, &queues, messages, consumer).await;
    }
    let (store, notifier) = (ScriptedStore::default(), ScriptedNotifier::default());
    let queues = ScriptedQueues::default();
    let consumer = Consumer {
        queue: QueueName::Notifications,
        handler: Arc::new(notifications(&store, &notifier)),
        max_batch: 10,
        ..consumer(&queues, &store)
    };
    let messages = ["m1", "m2"].map(out_of_stock);
    assert_nothing_is_acknowledged(Call::CheckInbox, &store, &queues, messages, consumer).await;
    assert_eq!(notifier.notified(), ["m1,m2"], "one mail, and none during the defect");
}

/// Asserts that no delivery is acknowledged while the store answers `question` with one answer too few, and that all are
/// handled afterwards.
async fn assert_nothing_is_acknowledged(
    question: Call,
    store: &ScriptedStore,
    queues: &ScriptedQueues,
    messages: [ReceivedMessage; 2],
    consumer: Consumer,
) {
    store.set_reply(question, Reply::OneAnswerTooFew);
    let messages: Vec<Message> = messages.into_iter().map(|received| received.message).collect();
    queues.put(messages);
    let running = RunningConsumer::start(consumer);
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert!(store.calls(question) > 0, "{question:?}");
    assert!(queues.acknowledged().is_empty(), "{question:?}");
    assert_eq!(store.commits(), [], "{question:?}");
    store.set_reply(question, Reply::Does);
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(queues.acknowledged(), ["m1", "m2"], "{question:?}");
    running.stop().await;
}

/// The handler returns success, although one message has no outcome.
#[tokio::test(start_paused = true)]
async fn a_message_that_the_handler_omits_is_redelivered() {
    let (queues, store) = (ScriptedQueues::default(), ScriptedStore::default());
    queues.put(["m1", "m2", "m3"].map(|id| batch(id, "LAMP").message));
    let handler = Arc::new(OmitsFirst(bus(&store)));
    let running = RunningConsumer::start(Consumer { handler, max_batch: 10, ..consumer(&queues, &store) });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(queues.acknowledged(), ["m2", "m3"]);
    assert_eq!(queues.ready(), ["m1"]);
    running.stop().await;
}

//! Notifications: a mail is sent inside its unit of work and cannot be taken back.

use std::{sync::Arc, time::Duration};

use allocation::{
    domain::{Reason, RetryDecision},
    entrypoints::consumer::Consumer,
    ports::{error::NotifierError, queue::QueueName},
    service::{availability::ServerUnavailable, batch_handler::HandleError, received::ReceivedMessage},
};
use tokio::time::Instant;

use crate::harness::HandleAll as _;

use super::fakes::{
    Call, LIMITS, Reply, RunningConsumer, ScriptedNotifier, ScriptedQueues, ScriptedStore, after_failures,
    batch, conflict, consumer, names, notifications, out_of_stock, redelivered, unavailable,
};

const NOTIFICATIONS: QueueName = QueueName::Notifications;

#[tokio::test]
async fn the_notifications_of_a_batch_are_one_mail_and_one_commit() {
    let (store, notifier) = (ScriptedStore::default(), ScriptedNotifier::default());
    let handler = notifications(&store, &notifier);
    let mut messages = ["e1", "e2", "e1", "e3"].map(out_of_stock);
    let outcomes = handler.handle_all(NOTIFICATIONS, &mut messages).await.unwrap();
    assert_eq!(names(&outcomes), ["handled", "handled", "duplicate", "handled"]);
    assert_eq!(notifier.notified(), ["e1,e2,e3"]);
    assert_eq!(store.commits().len(), 1);
}

/// The mail server rejects the mail because of one event.
#[tokio::test]
async fn the_notifications_of_a_rejected_mail_are_sent_separately() {
    let (store, notifier) = (ScriptedStore::default(), ScriptedNotifier::default());
    let rejected = || NotifierError::Rejected("554".into());
    notifier.fail_next([rejected(), rejected()]);
    let mut messages = ["e1", "e2", "e3"].map(out_of_stock);
    let outcomes = notifications(&store, &notifier).handle_all(NOTIFICATIONS, &mut messages).await.unwrap();
    assert_eq!(names(&outcomes), ["retry", "handled", "handled"]);
    assert_eq!(notifier.notified(), ["e1,e2,e3", "e1", "e2", "e3"]);
}

#[tokio::test(start_paused = true)]
async fn a_mail_about_several_events_is_sent_once_although_its_commit_fails() {
    let (store, notifier) = (ScriptedStore::default(), ScriptedNotifier::default());
    let (handler, mut messages) = (notifications(&store, &notifier), ["e1", "e2"].map(out_of_stock));
    store.set_next_replies(Call::Commit, [Reply::Fails(unavailable())]);
    assert!(handler.handle_all(NOTIFICATIONS, &mut messages).await.is_err());
    assert_eq!(names(&handler.handle_all(NOTIFICATIONS, &mut messages).await.unwrap()), ["handled"; 2]);
    assert_eq!(notifier.notified(), ["e1,e2"]);
}

#[tokio::test(start_paused = true)]
async fn a_mail_is_sent_once_although_its_commit_fails_twice() {
    let (store, notifier) = (ScriptedStore::default(), ScriptedNotifier::default());
    let (handler, mut messages) = (notifications(&store, &notifier), [out_of_stock("e1")]);
    store.set_next_replies(Call::Commit, [Reply::Fails(conflict()), Reply::Fails(unavailable())]);
    assert!(handler.handle_all(NOTIFICATIONS, &mut messages).await.is_err());
    assert_eq!(names(&handler.handle_all(NOTIFICATIONS, &mut messages).await.unwrap()), ["handled"]);
    assert_eq!(notifier.notified(), ["e1"]);
}

/// The message returns to the queue in the outage and is delivered again.
#[tokio::test(start_paused = true)]
async fn a_mail_is_sent_once_although_its_message_is_requeued() {
    let (store, notifier) = (ScriptedStore::default(), ScriptedNotifier::default());
    let queues = ScriptedQueues::default();
    queues.put(["e1", "e2"].map(|id| out_of_stock(id).message));
    for call in [Call::Commit, Call::Probe] {
        store.set_reply(call, Reply::Fails(unavailable()));
    }
    let running = RunningConsumer::start(Consumer {
        queue: NOTIFICATIONS,
        handler: Arc::new(notifications(&store, &notifier)),
        ..consumer(&queues, &store)
    });
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(queues.ready(), ["e1", "e2"], "requeued");
    assert_eq!(notifier.notified(), ["e1"]);
    for call in [Call::Commit, Call::Probe] {
        store.set_reply(call, Reply::Does);
    }
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(queues.acknowledged(), ["e1", "e2"]);
    assert_eq!(notifier.notified(), ["e1", "e2"]);
    running.stop().await;
}

/// Each mail is sent and its commit fails; the messages are handled by another process or later.
#[tokio::test]
async fn a_process_remembers_at_most_a_thousand_mails_without_a_commit() {
    let (store, notifier) = (ScriptedStore::default(), ScriptedNotifier::default());
    let handler = notifications(&store, &notifier);
    let mut messages: Vec<_> = (0..1500).map(|number| out_of_stock(&format!("e{number}"))).collect();
    store.set_reply(Call::Commit, Reply::Fails(unavailable()));
    for message in &mut messages {
        handler.handle_all(NOTIFICATIONS, std::slice::from_mut(message)).await.unwrap_err();
    }
    assert_eq!(notifier.notified().len(), 1500);
    store.set_reply(Call::Commit, Reply::Does);
    for message in &mut messages {
        handler.handle_all(NOTIFICATIONS, std::slice::from_mut(message)).await.unwrap();
    }
    let mails = notifier.notified();
    let sent_again = mails.len() - 1500;
    assert!((500..1500).contains(&sent_again), "{sent_again} mails were sent again");
    assert_eq!(mails.iter().filter(|id| *id == "e1499").count(), 1, "the last mail is remembered");
}

/// Neither the events of a mail nor those that were sent before are forgotten before they have their outcomes.
#[tokio::test]
async fn every_event_of_a_batch_is_handled_although_the_memory_of_sent_mails_is_full() {
    let (store, notifier) = (ScriptedStore::default(), ScriptedNotifier::default());
    let handler = notifications(&store, &notifier);
    store.set_reply(Call::Commit, Reply::Fails(unavailable()));
    for number in 0..995 {
        let mut message = [out_of_stock(&format!("e{number}"))];
        handler.handle_all(NOTIFICATIONS, &mut message).await.unwrap_err();
    }
    store.set_reply(Call::Commit, Reply::Does);
    let mut batch: Vec<_> = (990..1010).map(|number| out_of_stock(&format!("e{number}"))).collect();
    let outcomes = handler.handle_all(NOTIFICATIONS, &mut batch).await.unwrap();
    assert_eq!(names(&outcomes), ["handled"; 20]);
    assert_eq!(notifier.notified().len(), 996, "one more mail");
    assert!(notifier.notified()[995].starts_with("e995,e996,"), "{:?}", notifier.notified()[995]);
}

/// Its failure is recorded once.
#[tokio::test(start_paused = true)]
async fn a_rejected_mail_is_sent_once_although_its_commit_fails() {
    let (store, notifier) = (ScriptedStore::default(), ScriptedNotifier::default());
    notifier.fail_next([NotifierError::Rejected("550".into())]);
    store.set_next_replies(Call::Commit, [Reply::Fails(conflict())]);
    let outcomes =
        notifications(&store, &notifier).handle_all(NOTIFICATIONS, &mut [out_of_stock("e1")]).await.unwrap();
    assert_eq!(names(&outcomes), ["retry"]);
    assert_eq!(notifier.notified(), ["e1"]);
    assert_eq!(store.failures().len(), 1);
}

/// Another process may be sending the mail, to a slow mail server.
#[tokio::test(start_paused = true)]
async fn a_conflict_is_retried_with_pauses_and_counts_no_attempt() {
    let (store, notifier) = (ScriptedStore::default(), ScriptedNotifier::default());
    store.set_next_replies(Call::Begin, vec![Reply::Fails(conflict()); 30]);
    let begin = Instant::now();
    let outcomes =
        notifications(&store, &notifier).handle_all(NOTIFICATIONS, &mut [out_of_stock("e1")]).await.unwrap();
    assert_eq!(names(&outcomes), ["handled"]);
    assert_eq!((store.failures().len(), notifier.notified().len()), (0, 1));
    assert!(begin.elapsed() > Duration::from_secs(30), "with pauses: {:?}", begin.elapsed());
}

#[tokio::test]
async fn an_outage_of_the_mail_server_counts_no_attempt_and_the_mail_is_sent_afterwards() {
    let (store, notifier) = (ScriptedStore::default(), ScriptedNotifier::default());
    let (handler, mut messages) = (notifications(&store, &notifier), [out_of_stock("e1")]);
    notifier.fail_next([NotifierError::Unavailable("connection refused".into())]);
    let interrupted = handler.handle_all(NOTIFICATIONS, &mut messages).await.unwrap_err();
    assert!(
        matches!(interrupted.error, HandleError::Unavailable(ServerUnavailable::Notifier(_))),
        "{interrupted:?}"
    );
    assert_eq!(store.commits(), []);
    assert_eq!(names(&handler.handle_all(NOTIFICATIONS, &mut messages).await.unwrap()), ["handled"]);
    assert_eq!(notifier.notified(), ["e1", "e1"]);
}

#[tokio::test]
async fn a_deferred_mail_is_an_attempt_and_is_retried_for_longer_than_a_command() {
    let (store, notifier) = (ScriptedStore::default(), ScriptedNotifier::default());
    let handler = notifications(&store, &notifier);
    notifier.fail_next(vec![NotifierError::Deferred("451".into()); 6]);
    // Delays of 1 + 3 + 9 + 27 + 81 s; a command is dead after three attempts.
    for (attempt, then) in [(1, "retry"), (2, "retry"), (3, "retry"), (4, "retry"), (5, "retry"), (6, "dead")]
    {
        let message = after_failures(&store, out_of_stock("e1"), attempt - 1);
        let outcomes = handler.handle_all(NOTIFICATIONS, &mut [message]).await.unwrap();
        assert_eq!((names(&outcomes)[0], store.failures().len()), (then, usize::try_from(attempt).unwrap()));
    }
    assert_eq!(store.failures()[5].next, RetryDecision::Dead(Reason::AttemptsExhausted));
    assert_eq!(
        names(&handler.handle_all(NOTIFICATIONS, &mut [out_of_stock("e1")]).await.unwrap()),
        ["handled"]
    );
}

/// Starts of notifications are not counted, because a slow mail server is no crash.
#[tokio::test]
async fn a_redelivered_notification_is_not_isolated() {
    let (store, notifier) = (ScriptedStore::default(), ScriptedNotifier::default());
    store.set_unfinished_starts(NOTIFICATIONS, "e1", 9).await;
    let outcomes = notifications(&store, &notifier)
        .handle_all(NOTIFICATIONS, &mut [redelivered(out_of_stock("e1"))])
        .await
        .unwrap();
    assert_eq!(names(&outcomes), ["handled"]);
    assert_eq!((store.calls(Call::UnfinishedStarts), store.calls(Call::RecordStarts)), (0, 0));
}

#[tokio::test]
async fn a_message_in_the_wrong_queue_is_dead() {
    let (store, notifier) = (ScriptedStore::default(), ScriptedNotifier::default());
    let handler = notifications(&store, &notifier);
    let misplaced: [(QueueName, ReceivedMessage); 3] = [
        (NOTIFICATIONS, batch("m1", "LAMP")),
        (QueueName::Orders, out_of_stock("e1")),
        (QueueName::Stock, out_of_stock("e2")),
    ];
    for (queue, message) in misplaced {
        let message = ReceivedMessage::read(queue, message.message, false, LIMITS);
        let outcomes = handler.handle_all(queue, &mut [message]).await.unwrap();
        assert_eq!(names(&outcomes), ["dead"], "{queue:?}");
        let commit = store.commits().pop().unwrap();
        assert_eq!(commit.failures[0].next, RetryDecision::Dead(Reason::UnknownCommand));
        assert_eq!((commit.unhandled.len(), commit.handled.len()), (0, 0), "its id is not in the inbox");
    }
    assert!(notifier.notified().is_empty());
}

//! Which failures count as attempts, and what is recorded.

use allocation::{
    domain::{Reason, RetryDecision},
    ports::{error::StoreError, queue::QueueName, store::RetryCheck},
    service::{
        availability::ServerUnavailable,
        batch_handler::HandleError,
        failure::Failure,
        outcome::{AttemptRecord, CommandOutcome},
    },
};

use serde_json::json;

use crate::harness::{HandleAll as _, Interrupted, command};

use super::fakes::{
    Call, Reply, ScriptedStore, after_failures, archive, awaited, batch, broken, bus, conflict, line, names,
    rejected, retry, unavailable,
};

const ORDERS: QueueName = QueueName::Orders;

fn is_outage(interrupted: &Interrupted, expected: impl Fn(&StoreError) -> bool) -> bool {
    match &interrupted.error {
        HandleError::Unavailable(ServerUnavailable::Store(error)) => expected(error),
        _ => false,
    }
}

#[tokio::test]
async fn an_outage_at_any_call_counts_no_attempt() {
    for call in [Call::Begin, Call::Load, Call::Commit] {
        let store = ScriptedStore::default();
        store.set_next_replies(call, [Reply::Fails(unavailable())]);
        let (bus, mut messages) = (bus(&store), [batch("m1", "LAMP"), rejected("m2")]);
        let interrupted = bus.handle_all(ORDERS, &mut messages).await.unwrap_err();
        assert!(
            is_outage(&interrupted, |error| matches!(error, StoreError::Unavailable(_))),
            "{call:?}: {interrupted:?}"
        );
        assert!(interrupted.outcomes.is_empty());
        assert_eq!(
            store.commits(),
            [],
            "{call:?}: nothing is recorded, although the database is available again"
        );
        let outcomes = bus.handle_all(ORDERS, &mut messages).await.unwrap();
        assert_eq!(names(&outcomes), ["handled", "retry"], "{call:?}");
        assert_eq!(store.failures()[0].attempts, 1, "{call:?}");
    }
}

/// A timeout has two possible causes: an unavailable database, or a statement that takes too long.
#[tokio::test]
async fn a_timeout_is_an_attempt_only_if_the_database_is_available() {
    let store = ScriptedStore::default();
    let timeout = || Reply::Fails(StoreError::Timeout("no answer in 10 s".into()));
    store.set_next_replies(Call::Load, [timeout(), timeout()]);
    store.set_next_replies(Call::Probe, [Reply::Fails(unavailable())]);
    let (bus, mut messages) = (bus(&store), [batch("m1", "LAMP")]);
    assert!(bus.handle_all(ORDERS, &mut messages).await.is_err());
    assert_eq!(store.commits(), []);
    assert_eq!(names(&bus.handle_all(ORDERS, &mut messages).await.unwrap()), ["retry"]);
    assert_eq!(store.failures().len(), 1);
}

/// The client sends the command again; a recorded retry would handle it a second time.
#[tokio::test]
async fn a_failure_is_reported_to_a_waiting_sender_and_not_recorded() {
    let store = ScriptedStore::default();
    let bus = bus(&store);
    let outcomes = bus.handle_all(ORDERS, &mut [batch("m1", "LAMP"), line("m2", "LAMP", 11)]).await.unwrap();
    assert_eq!(names(&outcomes), ["handled", "handled"], "the line becomes a backorder");
    let before = store.commits().len();
    store.set_reply(Call::WaitingLines, Reply::Panics);
    let outcomes =
        bus.handle_all(ORDERS, &mut [awaited(batch("m3", "LAMP")), awaited(rejected("m4"))]).await.unwrap();
    assert!(
        matches!(&outcomes[0], CommandOutcome::Reported(Failure::Panicked(text)) if text == "the store panics"),
        "{outcomes:?}"
    );
    assert!(matches!(outcomes[1], CommandOutcome::Reported(Failure::Rejected(_))), "{outcomes:?}");
    assert_eq!(store.failures(), []);
    assert_eq!(store.commits().len(), before + 1, "the rejected command has its own unit of work");
    let outcomes = bus.handle_all(ORDERS, &mut [batch("m3", "LAMP")]).await.unwrap();
    assert_eq!(names(&outcomes), ["retry"], "a failed message from a queue is recorded");
    let attempt = store.failures().pop().unwrap();
    assert_eq!((attempt.error.as_str(), attempt.chain.len()), ("the handler panicked: the store panics", 0));
}

/// The consumer can acknowledge them.
#[tokio::test]
async fn messages_committed_before_an_outage_have_their_outcome() {
    let store = ScriptedStore::default();
    let (bus, mut messages) = (bus(&store), [batch("m1", "LAMP"), batch("m2", "VASE"), batch("m1", "OTHER")]);
    store.set_next_replies(Call::Commit, [Reply::Does, Reply::Fails(unavailable())]);
    let interrupted = bus.handle_all(ORDERS, &mut messages).await.unwrap_err();
    assert_eq!(
        names(&interrupted.outcomes),
        ["handled", "handled"],
        "the third message has the id of the first, and its own unit of work"
    );
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_failure_cannot_be_recorded_has_no_outcome() {
    let store = ScriptedStore::default();
    store.set_reply(Call::Commit, Reply::Fails(broken()));
    let interrupted = bus(&store).handle_all(ORDERS, &mut [batch("m1", "LAMP")]).await.unwrap_err();
    assert!(is_outage(&interrupted, |error| matches!(error, StoreError::Failed(_))), "{interrupted:?}");
    assert_eq!(store.calls(Call::Commit), 1 + 7, "the recording was retried");
}

#[tokio::test(start_paused = true)]
async fn recording_is_retried_after_a_conflict() {
    let store = ScriptedStore::default();
    let replies = [Reply::Fails(broken()), Reply::Fails(conflict()), Reply::Fails(conflict())];
    store.set_next_replies(Call::Commit, replies);
    let outcomes = bus(&store).handle_all(ORDERS, &mut [batch("m1", "LAMP")]).await.unwrap();
    assert_eq!(names(&outcomes), ["retry"]);
    assert_eq!(store.failures().len(), 1);
}

#[tokio::test]
async fn a_message_dead_lettered_by_the_broker_has_the_reason_of_the_broker() {
    let cases = [
        (Some("delivery_limit"), Reason::DeliveryLimit),
        (Some("rejected"), Reason::Rejected),
        (Some("expired"), Reason::Rejected),
        (None, Reason::Rejected),
    ];
    for (death_reason, reason) in cases {
        let store = ScriptedStore::default();
        let mut message = batch("m1", "LAMP");
        message.message.death_reason = death_reason.map(Into::into);
        let outcomes = archive(&store).handle_all(ORDERS, &mut [message]).await.unwrap();
        assert!(
            matches!(outcomes[0], CommandOutcome::Recorded(Failure::DeadLetteredByBroker(_), AttemptRecord { decision: RetryDecision::Dead(is), .. }) if is == reason)
        );
        assert_eq!(store.failures()[0].next, RetryDecision::Dead(reason), "{death_reason:?}");
        assert_eq!(store.commits()[0].unhandled, ["m1"], "its id is not in the inbox");
    }
}

#[tokio::test]
async fn a_handled_message_dead_lettered_by_the_broker_is_not_recorded() {
    let store = ScriptedStore::default();
    let bus = bus(&store);
    bus.handle_all(ORDERS, &mut [batch("m1", "LAMP")]).await.unwrap();
    let outcomes =
        archive(&store).handle_all(ORDERS, &mut [batch("m1", "LAMP"), batch("m2", "LAMP")]).await.unwrap();
    assert_eq!(names(&outcomes), ["duplicate", "dead"]);
    assert_eq!(store.failures().len(), 1);
}

/// The failed message is retrying, but the inbox has its id: another copy was handled, or its sender sent it again.
#[tokio::test]
async fn a_retry_of_a_handled_message_resolves_its_failed_message() {
    let store = ScriptedStore::default();
    let bus = bus(&store);
    bus.handle_all(ORDERS, &mut [batch("m1", "LAMP")]).await.unwrap();
    assert_eq!(names(&bus.handle_all(ORDERS, &mut [batch("m1", "LAMP")]).await.unwrap()), ["duplicate"]);
    let (copy, mark) = retry(batch("m1", "LAMP"), 2);
    store.set_retry_check(mark, RetryCheck::Current);
    assert_eq!(names(&bus.handle_all(ORDERS, &mut [copy]).await.unwrap()), ["duplicate"]);
    let handled: Vec<_> = store.commits().into_iter().map(|commit| commit.handled).collect();
    assert_eq!(handled, [vec!["m1".to_owned()], vec![], vec!["m1".to_owned()]]);
}

#[tokio::test]
async fn a_failed_copy_is_recorded_with_its_generation_unless_it_is_outdated() {
    let checks = [(RetryCheck::Current, 2), (RetryCheck::Unknown, 0)];
    for (check, generation) in checks {
        let store = ScriptedStore::default();
        let (copy, mark) = retry(rejected("m1"), 2);
        store.set_retry_check(mark, check);
        assert_eq!(names(&bus(&store).handle_all(ORDERS, &mut [copy]).await.unwrap()), ["retry"]);
        assert_eq!(store.failures()[0].generation, generation, "{check:?}");
    }
    for command in [rejected("m1"), batch("m1", "LAMP")] {
        let store = ScriptedStore::default();
        let (mut copy, mark) = retry(command, 2);
        store.set_retry_check(mark, RetryCheck::Outdated);
        assert_eq!(
            names(&bus(&store).handle_all(ORDERS, std::slice::from_mut(&mut copy)).await.unwrap()),
            ["duplicate"]
        );
        assert_eq!(names(&archive(&store).handle_all(ORDERS, &mut [copy]).await.unwrap()), ["duplicate"]);
        let commits = store.commits();
        assert!(commits.iter().all(|commit| commit.failures.is_empty() && commit.handled.is_empty()));
        assert_eq!(commits[0].unhandled, ["m1"], "the inbox must not make the current copy a duplicate");
    }
}

#[tokio::test]
async fn an_outdated_copy_that_cannot_be_decoded_is_not_recorded() {
    let store = ScriptedStore::default();
    let (copy, mark) = retry(command("m1", "no_such_type", &json!({})), 2);
    store.set_retry_check(mark, RetryCheck::Outdated);
    assert_eq!(names(&bus(&store).handle_all(ORDERS, &mut [copy]).await.unwrap()), ["duplicate"]);
    assert_eq!(store.failures(), []);
}

#[tokio::test]
async fn failures_with_one_error_are_grouped_by_queue_type_and_reason() {
    let store = ScriptedStore::default();
    let bus = bus(&store);
    for (queue, id) in [(ORDERS, "m1"), (ORDERS, "m2"), (QueueName::Stock, "m3")] {
        bus.handle_all(queue, &mut [rejected(id)]).await.unwrap();
    }
    for failures in [1, 2] {
        bus.handle_all(ORDERS, &mut [after_failures(&store, rejected("m1"), failures)]).await.unwrap();
    }
    let mut other_type = rejected("m4");
    other_type.message.kind = "order".into();
    bus.handle_all(ORDERS, &mut [other_type]).await.unwrap();
    let groups: Vec<_> = store.failures().into_iter().map(|failure| failure.error_group).collect();
    let [m1, m2, other_queue, again, dead, other_type] = &groups[..] else { panic!("{groups:?}") };
    assert!(m1 == m2 && m1 == again, "{groups:?}");
    assert!([other_queue, dead, other_type].into_iter().all(|group| group != m1), "{groups:?}");
}

/// Two units of work with one order of locks cannot deadlock.
#[tokio::test]
async fn products_are_written_in_the_order_of_their_skus() {
    let store = ScriptedStore::default();
    let skus = ["VASE", "LAMP", "CHAIR", "TABLE", "SOFA", "BED", "DESK", "SHELF"];
    let mut messages: Vec<_> = skus.iter().map(|sku| batch(&format!("m-{sku}"), sku)).collect();
    bus(&store).handle_all(ORDERS, &mut messages).await.unwrap();
    assert_eq!(store.commits()[0].skus, ["BED", "CHAIR", "DESK", "LAMP", "SHELF", "SOFA", "TABLE", "VASE"]);
}

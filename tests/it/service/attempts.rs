//! What counts as an attempt, and what is recorded of it.

use allocation::{
    domain::{Reason, RetryDecision},
    ports::{error::StoreError, queue::QueueName, store::RetryCheck},
    service::{
        availability::ServerUnavailable, batch_handler::HandleError, failure::Failure,
        outcome::CommandOutcome,
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
async fn an_outage_counts_against_no_message_wherever_it_begins() {
    for call in [Call::Begin, Call::Load, Call::Commit] {
        let store = ScriptedStore::default();
        store.next(call, [Reply::Fails(unavailable())]);
        let (bus, mut messages) = (bus(&store), [batch("m1", "LAMP"), rejected("m2")]);
        let interrupted = bus.handle_all(ORDERS, &mut messages).await.unwrap_err();
        assert!(
            is_outage(&interrupted, |error| matches!(error, StoreError::Unavailable(_))),
            "{call:?}: {interrupted:?}"
        );
        assert!(interrupted.outcomes.is_empty());
        assert_eq!(store.kept(), [], "{call:?}: the database answers again at once, and nothing is recorded");
        let outcomes = bus.handle_all(ORDERS, &mut messages).await.unwrap();
        assert_eq!(names(&outcomes), ["handled", "retry"], "{call:?}");
        assert_eq!(store.failures()[0].attempts, 1, "{call:?}");
    }
}

/// A timeout has two possible causes: an unavailable database, or a statement that takes too long.
#[tokio::test]
async fn silence_is_an_attempt_only_if_the_database_answers_others() {
    let store = ScriptedStore::default();
    let silent = || Reply::Fails(StoreError::Timeout("no answer in 10 s".into()));
    store.next(Call::Load, [silent(), silent()]);
    store.next(Call::Probe, [Reply::Fails(unavailable())]);
    let (bus, mut messages) = (bus(&store), [batch("m1", "LAMP")]);
    assert!(bus.handle_all(ORDERS, &mut messages).await.is_err());
    assert_eq!(store.kept(), []);
    assert_eq!(names(&bus.handle_all(ORDERS, &mut messages).await.unwrap()), ["retry"]);
    assert_eq!(store.failures().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_tried_again_and_an_attempt_only_if_it_lasts() {
    let store = ScriptedStore::default();
    store.next(Call::Commit, vec![Reply::Fails(conflict()); 6]);
    assert_eq!(
        names(&bus(&store).handle_all(ORDERS, &mut [batch("m1", "LAMP")]).await.unwrap()),
        ["handled"]
    );
    assert_eq!(store.failures(), []);
    for (attempt, then) in [(1, "retry"), (2, "retry"), (3, "dead")] {
        store.next(Call::Commit, vec![Reply::Fails(conflict()); 7]);
        let message = after_failures(&store, batch("m2", "LAMP"), i64::from(attempt) - 1);
        let outcomes = bus(&store).handle_all(ORDERS, &mut [message]).await.unwrap();
        assert_eq!(names(&outcomes), [then], "attempt {attempt}");
        assert_eq!(store.failures().last().unwrap().attempts, attempt);
    }
    let last = store.failures().pop().unwrap();
    assert_eq!(last.next, RetryDecision::Dead(Reason::AttemptsExhausted));
}

/// The client asks again, and the command must not be done twice.
#[tokio::test]
async fn a_command_that_broke_is_refused_if_its_sender_waits_and_never_in_the_ledger() {
    let store = ScriptedStore::default();
    let bus = bus(&store);
    let outcomes = bus.handle_all(ORDERS, &mut [batch("m1", "LAMP"), line("m2", "LAMP", 11)]).await.unwrap();
    assert_eq!(names(&outcomes), ["handled", "handled"], "the line waits");
    let before = store.kept().len();
    store.always(Call::WaitingLines, Reply::Panics);
    let outcomes =
        bus.handle_all(ORDERS, &mut [awaited(batch("m3", "LAMP")), awaited(rejected("m4"))]).await.unwrap();
    assert!(
        matches!(&outcomes[0], CommandOutcome::Reported(Failure::Panicked(text)) if text == "the store panics"),
        "{outcomes:?}"
    );
    assert!(matches!(outcomes[1], CommandOutcome::Reported(Failure::Rejected(_))), "{outcomes:?}");
    assert_eq!(store.failures(), []);
    assert_eq!(store.kept().len(), before + 1, "the rejected one has its unit of work");
    let outcomes = bus.handle_all(ORDERS, &mut [batch("m3", "LAMP")]).await.unwrap();
    assert_eq!(names(&outcomes), ["retry"], "from a queue it is recorded");
    let attempt = store.failures().pop().unwrap();
    assert_eq!((attempt.error.as_str(), attempt.chain.len()), ("the handler panicked: the store panics", 0));
}

/// Messages that were handled before an outage have their outcome: their worker can acknowledge them.
#[tokio::test]
async fn what_was_committed_before_an_outage_has_its_outcome() {
    let store = ScriptedStore::default();
    let (bus, mut messages) = (bus(&store), [batch("m1", "LAMP"), batch("m2", "VASE"), batch("m1", "OTHER")]);
    store.next(Call::Commit, [Reply::Does, Reply::Fails(unavailable())]);
    let interrupted = bus.handle_all(ORDERS, &mut messages).await.unwrap_err();
    assert_eq!(names(&interrupted.outcomes), ["handled", "handled"], "the third has the id of the first");
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_cannot_be_recorded_leaves_the_message_where_it_is() {
    let store = ScriptedStore::default();
    store.always(Call::Commit, Reply::Fails(broken()));
    let interrupted = bus(&store).handle_all(ORDERS, &mut [batch("m1", "LAMP")]).await.unwrap_err();
    assert!(is_outage(&interrupted, |error| matches!(error, StoreError::Failed(_))), "{interrupted:?}");
    assert_eq!(store.asked(Call::Commit), 1 + 7, "recording was tried a few times");
}

#[tokio::test(start_paused = true)]
async fn recording_is_tried_again_after_a_conflict() {
    let store = ScriptedStore::default();
    let replies = [Reply::Fails(broken()), Reply::Fails(conflict()), Reply::Fails(conflict())];
    store.next(Call::Commit, replies);
    let outcomes = bus(&store).handle_all(ORDERS, &mut [batch("m1", "LAMP")]).await.unwrap();
    assert_eq!(names(&outcomes), ["retry"]);
    assert_eq!(store.failures().len(), 1);
}

#[tokio::test]
async fn what_the_broker_dead_letters_is_dead_for_the_brokers_reason() {
    let cases = [
        (Some("delivery_limit"), Reason::DeliveryLimit),
        (Some("rejected"), Reason::Rejected),
        (Some("expired"), Reason::Rejected),
        (None, Reason::Rejected),
    ];
    for (why, reason) in cases {
        let store = ScriptedStore::default();
        let mut message = batch("m1", "LAMP");
        message.message.death_reason = why.map(Into::into);
        let outcomes = archive(&store).handle_all(ORDERS, &mut [message]).await.unwrap();
        assert!(
            matches!(outcomes[0], CommandOutcome::Recorded(Failure::DeadLetteredByBroker(_), RetryDecision::Dead(is)) if is == reason)
        );
        assert_eq!(store.failures()[0].next, RetryDecision::Dead(reason), "{why:?}");
        assert_eq!(store.kept()[0].unhandled, ["m1"], "the inbox does not take it for handled");
    }
}

#[tokio::test]
async fn what_the_broker_dead_letters_after_it_was_handled_is_left_alone() {
    let store = ScriptedStore::default();
    let bus = bus(&store);
    bus.handle_all(ORDERS, &mut [batch("m1", "LAMP")]).await.unwrap();
    let outcomes =
        archive(&store).handle_all(ORDERS, &mut [batch("m1", "LAMP"), batch("m2", "LAMP")]).await.unwrap();
    assert_eq!(names(&outcomes), ["repeat", "dead"]);
    assert_eq!(store.failures().len(), 1);
}

/// The ledger says retrying, and the inbox that it was handled: by a copy, or because its sender sent it again.
#[tokio::test]
async fn a_retry_of_what_was_handled_resolves_its_failed_message() {
    let store = ScriptedStore::default();
    let bus = bus(&store);
    bus.handle_all(ORDERS, &mut [batch("m1", "LAMP")]).await.unwrap();
    assert_eq!(names(&bus.handle_all(ORDERS, &mut [batch("m1", "LAMP")]).await.unwrap()), ["repeat"]);
    let (copy, mark) = retry(batch("m1", "LAMP"), 2);
    store.knows_retry(mark, RetryCheck::Current);
    assert_eq!(names(&bus.handle_all(ORDERS, &mut [copy]).await.unwrap()), ["repeat"]);
    let handled: Vec<_> = store.kept().into_iter().map(|kept| kept.handled).collect();
    assert_eq!(handled, [vec!["m1".to_owned()], vec![], vec!["m1".to_owned()]]);
}

#[tokio::test]
async fn a_copy_is_recorded_with_its_generation_and_an_outdated_one_not_at_all() {
    let checks = [(RetryCheck::Current, 2), (RetryCheck::Unknown, 0)];
    for (check, generation) in checks {
        let store = ScriptedStore::default();
        let (copy, mark) = retry(rejected("m1"), 2);
        store.knows_retry(mark, check);
        assert_eq!(names(&bus(&store).handle_all(ORDERS, &mut [copy]).await.unwrap()), ["retry"]);
        assert_eq!(store.failures()[0].generation, generation, "{check:?}");
    }
    for command in [rejected("m1"), batch("m1", "LAMP")] {
        let store = ScriptedStore::default();
        let (mut copy, mark) = retry(command, 2);
        store.knows_retry(mark, RetryCheck::Outdated);
        assert_eq!(
            names(&bus(&store).handle_all(ORDERS, std::slice::from_mut(&mut copy)).await.unwrap()),
            ["repeat"]
        );
        assert_eq!(names(&archive(&store).handle_all(ORDERS, &mut [copy]).await.unwrap()), ["repeat"]);
        let kept = store.kept();
        assert!(kept.iter().all(|kept| kept.failures.is_empty() && kept.handled.is_empty()));
        assert_eq!(kept[0].unhandled, ["m1"], "the current copy is not a repeat");
    }
}

#[tokio::test]
async fn an_outdated_copy_that_cannot_be_read_is_not_recorded_either() {
    let store = ScriptedStore::default();
    let (copy, mark) = retry(command("m1", "no_such_type", &json!({})), 2);
    store.knows_retry(mark, RetryCheck::Outdated);
    assert_eq!(names(&bus(&store).handle_all(ORDERS, &mut [copy]).await.unwrap()), ["repeat"]);
    assert_eq!(store.failures(), []);
}

/// A group is one cause in one queue, with one reason.
#[tokio::test]
async fn failures_of_one_error_are_groups_by_queue_type_and_reason() {
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

/// So that two units of work never wait for each other.
#[tokio::test]
async fn products_are_written_in_the_order_of_their_skus() {
    let store = ScriptedStore::default();
    let skus = ["VASE", "LAMP", "CHAIR", "TABLE", "SOFA", "BED", "DESK", "SHELF"];
    let mut messages: Vec<_> = skus.iter().map(|sku| batch(&format!("m-{sku}"), sku)).collect();
    bus(&store).handle_all(ORDERS, &mut messages).await.unwrap();
    assert_eq!(store.kept()[0].skus, ["BED", "CHAIR", "DESK", "LAMP", "SHELF", "SOFA", "TABLE", "VASE"]);
}

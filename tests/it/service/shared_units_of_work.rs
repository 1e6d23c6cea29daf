//! Several messages in one unit of work: copies, order, and commands that make it fail.

use allocation::{
    domain::{Reason, RetryDecision},
    ports::queue::QueueName,
    service::{failure::Failure, outcome::CommandOutcome},
};

use crate::harness::{HandleAll as _, received};

use super::fakes::{Call, Reply, ScriptedStore, awaited, batch, broken, bus, line, names, rejected, retry};

const ORDERS: QueueName = QueueName::Orders;

/// The ids of the handled messages, in the order of their commits.
fn handled(store: &ScriptedStore) -> Vec<String> {
    store.commits().into_iter().flat_map(|commit| commit.handled).collect()
}

#[tokio::test]
async fn of_two_messages_with_one_id_the_second_is_a_duplicate_or_a_conflict() {
    let store = ScriptedStore::default();
    let mut messages = [batch("m1", "LAMP"), batch("m1", "LAMP"), batch("m2", "LAMP"), batch("m1", "VASE")];
    let outcomes = bus(&store).handle_all(ORDERS, &mut messages).await.unwrap();
    assert_eq!(names(&outcomes), ["handled", "duplicate", "handled", "dead"]);
    let conflict = RetryDecision::Dead(Reason::MessageIdConflict);
    assert!(
        matches!(&outcomes[3], CommandOutcome::Recorded(Failure::BodyMismatch, record) if record.decision == conflict),
        "{outcomes:?}"
    );
    let skus: Vec<_> = store.commits().into_iter().flat_map(|commit| commit.skus).collect();
    assert_eq!(skus, ["LAMP"], "the last message has no effect");
    assert_eq!(handled(&store), ["m1", "m2"]);
}

/// The type is part of the identity of a message.
#[tokio::test]
async fn another_type_with_the_same_id_is_a_conflict() {
    let store = ScriptedStore::default();
    let mut cancelled = line("m1", "LAMP", 1);
    let mut message = cancelled.message.clone();
    message.kind = "deallocate".into();
    cancelled = received(message);
    let mut messages = [batch("m0", "LAMP"), line("m1", "LAMP", 1), cancelled];
    let outcomes = bus(&store).handle_all(ORDERS, &mut messages).await.unwrap();
    assert_eq!(names(&outcomes), ["handled", "handled", "dead"]);
}

#[tokio::test]
async fn a_copy_has_the_outcome_of_its_original() {
    let store = ScriptedStore::default();
    let mut messages = [rejected("m1"), batch("m2", "LAMP"), rejected("m1"), rejected("m1")];
    let outcomes = bus(&store).handle_all(ORDERS, &mut messages).await.unwrap();
    assert_eq!(names(&outcomes), ["retry", "handled", "retry", "retry"]);
    let mut decisions = outcomes.iter().filter_map(|outcome| match outcome {
        CommandOutcome::Recorded(_, record) => Some(record.decision),
        _ => None,
    });
    let first = decisions.next().unwrap();
    assert!(decisions.all(|decision| decision == first), "one attempt, with one delay: {outcomes:?}");
    assert_eq!(store.failures().len(), 1);

    let mut messages = [awaited(rejected("m3")), awaited(rejected("m3")), awaited(batch("m2", "LAMP"))];
    let outcomes = bus(&store).handle_all(ORDERS, &mut messages).await.unwrap();
    assert_eq!(names(&outcomes), ["reported", "reported", "duplicate"]);
    assert_eq!(store.failures().len(), 1);
}

/// A retry is not a copy of the message that its sender sent.
#[tokio::test]
async fn a_retry_and_a_message_from_its_sender_have_separate_units_of_work() {
    let store = ScriptedStore::default();
    let (copy, _) = retry(rejected("m1"), 2);
    let outcomes = bus(&store).handle_all(ORDERS, &mut [rejected("m1"), copy]).await.unwrap();
    assert_eq!(names(&outcomes), ["retry", "retry"]);
    assert_eq!(store.commits().len(), 2);
    let attempts: Vec<_> = store.failures().iter().map(|failure| failure.attempts).collect();
    assert_eq!(attempts, [1, 2]);
}

#[tokio::test]
async fn undecodable_messages_are_not_copies_of_each_other() {
    let store = ScriptedStore::default();
    let undecodable = || {
        let mut message = batch("m1", "LAMP").message;
        message.body = b"{".as_slice().into();
        received(message)
    };
    let outcomes = bus(&store)
        .handle_all(ORDERS, &mut [undecodable(), batch("m1", "LAMP"), undecodable()])
        .await
        .unwrap();
    assert_eq!(names(&outcomes), ["dead", "handled", "dead"]);
    assert_eq!(store.failures().len(), 2);
}

/// A failed unit of work is divided into parts of 32 messages, and a failed part into single messages.
#[tokio::test]
async fn commands_behind_a_failing_command_keep_their_order() {
    let store = ScriptedStore::default();
    store.set_load_reply("FAILS", Reply::Fails(broken()));
    let id = |i: usize| format!("m{i:03}");
    let mut messages: Vec<_> =
        (0..200).map(|i| batch(&id(i), if i == 70 { "FAILS" } else { "LAMP" })).collect();
    let outcomes = bus(&store).handle_all(ORDERS, &mut messages).await.unwrap();
    assert_eq!(
        (0..200).filter(|&i| !matches!(outcomes[i], CommandOutcome::Handled)).collect::<Vec<_>>(),
        [70]
    );
    assert_eq!(handled(&store), (0..200).filter(|&i| i != 70).map(id).collect::<Vec<_>>());
    // All messages, seven parts, the 32 messages of the third part, and one transaction to record the failure.
    assert_eq!(store.calls(Call::Begin), 1 + 7 + 32 + 1);
    assert_eq!(store.failures().len(), 1);
}

#[tokio::test]
async fn copies_in_different_parts_of_a_unit_of_work_have_one_effect() {
    let store = ScriptedStore::default();
    store.set_next_replies(Call::Load, [Reply::Fails(broken())]);
    let mut messages: Vec<_> = (0..40).map(|i| batch(&format!("m{i}"), "LAMP")).collect();
    messages[39] = batch("m0", "LAMP");
    let outcomes = bus(&store).handle_all(ORDERS, &mut messages).await.unwrap();
    assert_eq!(
        (0..40).filter(|&i| !matches!(outcomes[i], CommandOutcome::Handled)).collect::<Vec<_>>(),
        [39]
    );
    assert!(matches!(outcomes[39], CommandOutcome::Duplicate), "{:?}", outcomes[39]);
}

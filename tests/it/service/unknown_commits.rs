//! Commits without a reply: whether they took effect is unknown.

use allocation::{
    ports::{error::StoreError, queue::QueueName},
    service::{failure::Failure, outcome::CommandOutcome},
};

use crate::harness::HandleAll as _;

use super::fakes::{
    Call, Reply, ScriptedStore, awaited, batch, broken, bus, line, names, rejected, unavailable,
};

const ORDERS: QueueName = QueueName::Orders;

fn commit_unknown() -> StoreError {
    StoreError::CommitUnknown("no reply within 10 s".into())
}

/// A commit without an effect and a commit with an effect, both without a reply.
fn without_and_with_effect() -> [Reply; 2] {
    [Reply::Fails(commit_unknown()), Reply::DoesAndFails(commit_unknown())]
}

#[tokio::test]
async fn an_unknown_commit_is_reported_to_a_waiting_sender() {
    for commit in without_and_with_effect() {
        let store = ScriptedStore::default();
        store.set_next_replies(Call::Commit, [commit]);
        let outcomes = bus(&store).handle_all(ORDERS, &mut [awaited(batch("m1", "LAMP"))]).await.unwrap();
        assert_eq!(names(&outcomes), ["unknown"]);
        assert_eq!(store.failures(), []);
        assert_eq!(store.calls(Call::Begin), 1, "only the client may retry");
    }
}

#[tokio::test]
async fn a_message_from_a_queue_is_looked_up_in_the_inbox() {
    let expected = [("retry", 1), ("duplicate", 0)];
    for (commit, (outcome, failures)) in without_and_with_effect().into_iter().zip(expected) {
        let store = ScriptedStore::default();
        store.set_next_replies(Call::Commit, [commit]);
        let outcomes = bus(&store).handle_all(ORDERS, &mut [batch("m1", "LAMP")]).await.unwrap();
        assert_eq!(names(&outcomes), [outcome]);
        assert_eq!(store.failures().len(), failures, "{outcome}");
    }
}

#[tokio::test]
async fn without_the_database_no_message_has_an_outcome() {
    for commit in without_and_with_effect() {
        let store = ScriptedStore::default();
        store.set_next_replies(Call::Commit, [commit]);
        store.set_next_replies(Call::Probe, [Reply::Fails(unavailable())]);
        let mut messages = [batch("m1", "LAMP"), rejected("m2")];
        assert!(bus(&store).handle_all(ORDERS, &mut messages).await.is_err());
        let outcomes = bus(&store).handle_all(ORDERS, &mut messages).await.unwrap();
        assert!(matches!(names(&outcomes)[..], ["handled" | "duplicate", "retry"]), "{outcomes:?}");
    }
}

/// Each message gets its own unit of work, and the inbox shows which ones were handled.
#[tokio::test]
async fn each_message_of_an_unknown_commit_has_its_own_outcome() {
    let expected = [["handled", "handled"], ["duplicate", "duplicate"]];
    for (commit, outcomes) in without_and_with_effect().into_iter().zip(expected) {
        let store = ScriptedStore::default();
        store.set_next_replies(Call::Commit, [commit]);
        let mut messages = [awaited(batch("m1", "LAMP")), awaited(batch("m2", "LAMP"))];
        assert_eq!(names(&bus(&store).handle_all(ORDERS, &mut messages).await.unwrap()), outcomes);
    }
}

/// The unit of work of a single message fails before it has read the inbox.
#[tokio::test]
async fn an_unknown_commit_stays_unknown_if_the_next_unit_of_work_fails() {
    let store = ScriptedStore::default();
    store.set_next_replies(Call::Commit, [Reply::Fails(commit_unknown())]);
    store.set_next_replies(Call::Load, [Reply::Does, Reply::Fails(broken())]);
    let mut messages = [awaited(batch("m1", "LAMP")), awaited(batch("m2", "LAMP"))];
    let outcomes = bus(&store).handle_all(ORDERS, &mut messages).await.unwrap();
    assert_eq!(names(&outcomes), ["unknown", "handled"]);
}

/// The unit of work is divided into parts of 32 messages, and then into single ones.
#[tokio::test]
async fn an_unknown_commit_of_a_large_unit_of_work_concerns_every_message_in_it() {
    let store = ScriptedStore::default();
    store.set_next_replies(Call::Commit, [Reply::Fails(commit_unknown())]);
    // All 40 messages, the first 32, then single ones: the fourth call loads the second message.
    store.set_next_replies(
        Call::Load,
        [Reply::Does, Reply::Fails(broken()), Reply::Does, Reply::Fails(broken())],
    );
    let mut messages: Vec<_> = (0..40).map(|i| awaited(batch(&format!("m{i}"), "LAMP"))).collect();
    let outcomes = bus(&store).handle_all(ORDERS, &mut messages).await.unwrap();
    let mut expected = vec!["handled"; 40];
    expected[1] = "unknown";
    assert_eq!(names(&outcomes), expected);
}

/// The failure of a command that was not committed is known.
#[tokio::test]
async fn without_an_unknown_commit_no_outcome_is_unknown() {
    let store = ScriptedStore::default();
    store.set_load_reply("FAILS", Reply::Fails(broken()));
    let mut messages =
        [awaited(batch("m1", "LAMP")), awaited(batch("m2", "FAILS")), awaited(line("m3", "LAMP", 1))];
    let outcomes = bus(&store).handle_all(ORDERS, &mut messages).await.unwrap();
    assert_eq!(names(&outcomes), ["handled", "reported", "handled"]);
    assert!(
        matches!(outcomes[1], CommandOutcome::Reported(Failure::Store(StoreError::Failed(_)))),
        "{outcomes:?}"
    );
}

//! A commit that is not answered: it may have taken place.

use allocation::{
    ports::{error::StoreError, queue::QueueName},
    service::{failure::Failure, outcome::CommandOutcome},
};

use crate::harness::HandleAll as _;

use super::fakes::{
    Call, Reply, ScriptedStore, awaited, batch, broken, bus, line, names, rejected, unavailable,
};

const ORDERS: QueueName = QueueName::Orders;

fn unanswered() -> StoreError {
    StoreError::CommitUnknown("no answer in 10 s".into())
}

/// The commit, and the same after it has taken place.
fn both_ways() -> [Reply; 2] {
    [Reply::Fails(unanswered()), Reply::DoesAndFails(unanswered())]
}

#[tokio::test]
async fn a_sender_that_waits_learns_that_the_outcome_is_unknown() {
    for commit in both_ways() {
        let store = ScriptedStore::default();
        store.next(Call::Commit, [commit]);
        let outcomes = bus(&store).handle_all(ORDERS, &mut [awaited(batch("m1", "LAMP"))]).await.unwrap();
        assert_eq!(names(&outcomes), ["in doubt"]);
        assert_eq!(store.failures(), []);
        assert_eq!(store.asked(Call::Begin), 1, "it is not tried again behind the client's back");
    }
}

#[tokio::test]
async fn a_message_from_a_queue_is_looked_for_in_the_inbox() {
    let expected = [("retry", 1), ("repeat", 0)];
    for (commit, (outcome, failures)) in both_ways().into_iter().zip(expected) {
        let store = ScriptedStore::default();
        store.next(Call::Commit, [commit]);
        let outcomes = bus(&store).handle_all(ORDERS, &mut [batch("m1", "LAMP")]).await.unwrap();
        assert_eq!(names(&outcomes), [outcome]);
        assert_eq!(store.failures().len(), failures, "{outcome}");
    }
}

#[tokio::test]
async fn if_the_database_is_away_everything_waits() {
    for commit in both_ways() {
        let store = ScriptedStore::default();
        store.next(Call::Commit, [commit]);
        store.next(Call::Probe, [Reply::Fails(unavailable())]);
        let mut messages = [batch("m1", "LAMP"), rejected("m2")];
        assert!(bus(&store).handle_all(ORDERS, &mut messages).await.is_err());
        let outcomes = bus(&store).handle_all(ORDERS, &mut messages).await.unwrap();
        assert!(matches!(names(&outcomes)[..], ["handled" | "repeat", "retry"]), "{outcomes:?}");
    }
}

/// Of several each gets its own unit of work, and the inbox says what was done.
#[tokio::test]
async fn of_several_each_learns_its_own_fate() {
    let expected = [["handled", "handled"], ["repeat", "repeat"]];
    for (commit, outcomes) in both_ways().into_iter().zip(expected) {
        let store = ScriptedStore::default();
        store.next(Call::Commit, [commit]);
        let mut messages = [awaited(batch("m1", "LAMP")), awaited(batch("m2", "LAMP"))];
        assert_eq!(names(&bus(&store).handle_all(ORDERS, &mut messages).await.unwrap()), outcomes);
    }
}

/// Its own unit of work breaks before it says whether the first one was committed.
#[tokio::test]
async fn doubt_about_a_first_unit_of_work_stays_when_a_second_breaks() {
    let store = ScriptedStore::default();
    store.next(Call::Commit, [Reply::Fails(unanswered())]);
    store.next(Call::Load, [Reply::Does, Reply::Fails(broken())]);
    let mut messages = [awaited(batch("m1", "LAMP")), awaited(batch("m2", "LAMP"))];
    let outcomes = bus(&store).handle_all(ORDERS, &mut messages).await.unwrap();
    assert_eq!(names(&outcomes), ["in doubt", "handled"]);
}

/// Through portions of 32 down to one message.
#[tokio::test]
async fn doubt_about_a_large_unit_of_work_reaches_every_message_in_it() {
    let store = ScriptedStore::default();
    store.next(Call::Commit, [Reply::Fails(unanswered())]);
    // All 40, the first 32 of them, and then one by one: the fourth is the second message.
    store.next(Call::Load, [Reply::Does, Reply::Fails(broken()), Reply::Does, Reply::Fails(broken())]);
    let mut messages: Vec<_> = (0..40).map(|i| awaited(batch(&format!("m{i}"), "LAMP"))).collect();
    let outcomes = bus(&store).handle_all(ORDERS, &mut messages).await.unwrap();
    let mut expected = vec!["handled"; 40];
    expected[1] = "in doubt";
    assert_eq!(names(&outcomes), expected);
}

/// Nothing was committed before: what broke was not done, and that is known.
#[tokio::test]
async fn without_an_unanswered_commit_there_is_no_doubt() {
    let store = ScriptedStore::default();
    store.loading("CURSED", Reply::Fails(broken()));
    let mut messages =
        [awaited(batch("m1", "LAMP")), awaited(batch("m2", "CURSED")), awaited(line("m3", "LAMP", 1))];
    let outcomes = bus(&store).handle_all(ORDERS, &mut messages).await.unwrap();
    assert_eq!(names(&outcomes), ["handled", "refused", "handled"]);
    assert!(
        matches!(outcomes[1], CommandOutcome::Reported(Failure::Store(StoreError::Failed(_)))),
        "{outcomes:?}"
    );
}

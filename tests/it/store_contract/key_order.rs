//! The contract of the order of failed messages with one key.

use std::time::Duration;

use allocation::{
    domain::{BatchRef, BodyHash, MessageKey, NewAttempt, OrderingKey, Reason, RetryDecision, StatusKind},
    ports::{
        outbox::RetryFeed,
        queue::QueueName,
        store::{ChangeSet, OrderCheck, OrderedMessage, Overtaking, OwnFailedMessage},
    },
};

use super::{
    adapters::{Adapters, every_outbox},
    retries::{attempt, due_ids},
};

const NOW: RetryDecision = RetryDecision::Retry(Duration::ZERO);
const DEAD: RetryDecision = RetryDecision::Dead(Reason::Rejected);

every_outbox!(
    a_key_without_failed_messages_holds_up_nothing,
    a_command_is_behind_earlier_open_messages_of_its_key,
    a_message_that_waits_is_not_tried_before_it_is_released,
    only_the_first_open_message_of_a_key_is_released,
    a_copy_that_has_to_wait_keeps_its_attempts,
    a_rejected_retry_releases_the_next_message,
    a_command_overtakes_earlier_dead_messages_of_its_key,
    upkeep_releases_a_message_that_waits_for_nothing,
);

fn key(name: &str) -> OrderingKey {
    OrderingKey::batch(&BatchRef::new(name).unwrap())
}

/// An attempt of a message with the key `k`.
fn failed(message_id: &str, generation: i64, next: RetryDecision) -> NewAttempt {
    NewAttempt { ordering_key: Some(key("k")), ..attempt(message_id, generation, next) }
}

async fn record(adapters: &Adapters, attempts: impl IntoIterator<Item = NewAttempt>) {
    adapters.commit(ChangeSet { failures: attempts.into_iter().collect(), ..ChangeSet::default() }).await;
}

async fn release(adapters: &Adapters) {
    adapters.commit(ChangeSet { released: vec![key("k")], ..ChangeSet::default() }).await;
}

async fn handle(adapters: &Adapters, message_id: &str) {
    let key = MessageKey { message_id: message_id.into(), kind: "allocate", body_hash: BodyHash([1; 16]) };
    let mut tx = adapters.store.begin(QueueName::Orders).await.unwrap();
    tx.check_inbox(&[key]).await.unwrap();
    tx.commit(ChangeSet { handled: vec![message_id.into()], ..ChangeSet::default() }).await.unwrap();
}

fn ordered(message_id: &str, of: &str) -> OrderedMessage {
    let body_hash = attempt("", 0, NOW).key.body_hash;
    OrderedMessage {
        message: MessageKey { message_id: message_id.into(), kind: "allocate", body_hash },
        key: key(of),
    }
}

async fn check(adapters: &Adapters, message_ids: &[&str]) -> Vec<OrderCheck> {
    let messages: Vec<_> = message_ids.iter().map(|id| ordered(id, "k")).collect();
    let mut tx = adapters.store.begin(QueueName::Orders).await.unwrap();
    let checks = tx.check_order(&messages).await.unwrap();
    tx.rollback().await;
    checks
}

fn ids(message_ids: &[&str]) -> Vec<Option<String>> {
    message_ids.iter().map(|id| Some(id.to_string())).collect()
}

/// Publishes what is due, and returns its ids.
async fn publish(session: &mut (impl RetryFeed + ?Sized)) -> Vec<Option<String>> {
    let due = session.due(10, usize::MAX).await.unwrap();
    session.published(&due.iter().collect::<Vec<_>>()).await.unwrap();
    due.into_iter().map(|retry| retry.message_id).collect()
}

async fn a_key_without_failed_messages_holds_up_nothing(adapters: Adapters) {
    assert_eq!(check(&adapters, &["m1"]).await, [OrderCheck::default()]);
    record(&adapters, [failed("m1", 0, NOW), attempt("no-key", 0, NOW)]).await;
    handle(&adapters, "m1").await;
    assert_eq!(check(&adapters, &["m2"]).await, [OrderCheck::default()], "it is resolved");
    record(&adapters, [failed("m3", 0, NOW)]).await;
    let mut tx = adapters.store.begin(QueueName::Orders).await.unwrap();
    let checks = tx.check_order(&[ordered("m4", "other"), ordered("m4", "k")]).await.unwrap();
    tx.rollback().await;
    assert_eq!([checks[0].is_behind, checks[1].is_behind], [false, true], "in the order of the question");
}

async fn a_command_is_behind_earlier_open_messages_of_its_key(adapters: Adapters) {
    let waiting = failed("m3", 0, RetryDecision::Wait);
    record(&adapters, [failed("m1", 0, DEAD), failed("m2", 0, NOW), waiting]).await;
    let checks = check(&adapters, &["m1", "m2", "m3", "m4"]).await;
    let own =
        |check: &OrderCheck| check.own.map(|OwnFailedMessage { status, attempts, .. }| (status, attempts));
    let expected =
        [Some((StatusKind::Dead, 0)), Some((StatusKind::Retrying, 1)), Some((StatusKind::Waiting, 0)), None];
    assert_eq!(checks.iter().map(own).collect::<Vec<_>>(), expected);
    assert_eq!(checks.iter().map(|check| check.is_behind).collect::<Vec<_>>(), [false, false, true, true]);
    assert_eq!(checks.iter().map(|check| check.overtakes).collect::<Vec<_>>(), [false, true, true, true]);
}

async fn a_message_that_waits_is_not_tried_before_it_is_released(adapters: Adapters) {
    let mut session = adapters.lead().await;
    record(&adapters, [failed("m1", 0, NOW), failed("m2", 0, RetryDecision::Wait)]).await;
    assert_eq!(publish(&mut *session).await, ids(&["m1"]));
    release(&adapters).await;
    assert_eq!(due_ids(&mut *session, 10).await, [], "the first message is open");
    handle(&adapters, "m1").await;
    assert_eq!(due_ids(&mut *session, 10).await, []);
    release(&adapters).await;
    assert_eq!(publish(&mut *session).await, ids(&["m2"]));
    release(&adapters).await;
    assert_eq!(due_ids(&mut *session, 10).await, [], "it is released once");
}

async fn only_the_first_open_message_of_a_key_is_released(adapters: Adapters) {
    let mut session = adapters.lead().await;
    let waiting = ["m2", "m3", "m4"].map(|id| failed(id, 0, RetryDecision::Wait));
    record(&adapters, [failed("m1", 0, NOW)].into_iter().chain(waiting)).await;
    for (ended, next) in [("m1", "m2"), ("m2", "m3"), ("m3", "m4")] {
        publish(&mut *session).await;
        handle(&adapters, ended).await;
        release(&adapters).await;
        assert_eq!(due_ids(&mut *session, 10).await, ids(&[next]));
    }
}

async fn a_copy_that_has_to_wait_keeps_its_attempts(adapters: Adapters) {
    let mut session = adapters.lead().await;
    record(&adapters, [failed("m1", 0, DEAD)]).await;
    record(&adapters, [failed("m2", 0, NOW)]).await;
    let retry = session.due(1, usize::MAX).await.unwrap().remove(0);
    session.published(&[&retry]).await.unwrap();
    record(&adapters, [NewAttempt { attempts: 1, ..failed("m2", retry.generation, RetryDecision::Wait) }])
        .await;
    record(&adapters, [failed("m2", 0, DEAD)]).await;
    let own = check(&adapters, &["m2"]).await[0].own.unwrap();
    assert_eq!(own.status, StatusKind::Waiting, "another delivery of the message changes nothing");
    release(&adapters).await;
    let released = session.due(1, usize::MAX).await.unwrap().remove(0);
    assert!(released.generation > retry.generation + 1, "an earlier copy is outdated");
    assert_eq!(check(&adapters, &["m2"]).await[0].own.unwrap().attempts, 1);
}

async fn a_rejected_retry_releases_the_next_message(adapters: Adapters) {
    let mut session = adapters.lead().await;
    record(&adapters, [failed("m1", 0, NOW), failed("m2", 0, RetryDecision::Wait)]).await;
    let retry = session.due(1, usize::MAX).await.unwrap().remove(0);
    session.reject(&retry, "too large").await.unwrap();
    assert_eq!(due_ids(&mut *session, 10).await, ids(&["m2"]));
}

async fn a_command_overtakes_earlier_dead_messages_of_its_key(adapters: Adapters) {
    record(&adapters, [failed("m1", 0, DEAD), failed("m2", 0, NOW), failed("m3", 0, DEAD)]).await;
    let own = check(&adapters, &["m2"]).await[0].own.map(|own| own.id);
    let overtake = async |message_id: &str, own: Option<i64>| {
        let overtaking = Overtaking { key: key("k"), message_id: message_id.into(), own };
        let recorded = failed(&format!("dead with {message_id}"), 0, DEAD);
        let changes =
            ChangeSet { overtakings: vec![overtaking], failures: vec![recorded], ..ChangeSet::default() };
        adapters.commit(changes).await;
    };
    let overtaken = async || adapters.overtaken_by(&["m1", "m2", "m3", "dead with m4"]).await;
    overtake("m2", own).await;
    assert_eq!(overtaken().await, [Some("m2".to_owned()), None, None, None], "not the later ones");
    overtake("m4", None).await;
    let m4 = || Some("m4".to_owned());
    assert_eq!(overtaken().await, [m4(), None, m4(), None], "the last command counts");
    overtake("m5", None).await;
    let m5 = || Some("m5".to_owned());
    assert_eq!(overtaken().await, [m5(), None, m5(), m5()]);
    // A new delivery of the dead message is later than the command.
    record(&adapters, [failed("m1", 0, DEAD)]).await;
    assert_eq!(overtaken().await[0], None);
    let own = check(&adapters, &["m1", "m3"]).await;
    assert_eq!(own.iter().map(|check| check.own.unwrap().overtaken).collect::<Vec<_>>(), [false, true]);
    let by = NewAttempt { overtaken_by: Some("m6".into()), ..failed("m3", 0, DEAD) };
    record(&adapters, [by]).await;
    assert_eq!(overtaken().await[2].as_deref(), Some("m6"));
}

/// A process of an earlier version has ended the message before it.
async fn upkeep_releases_a_message_that_waits_for_nothing(adapters: Adapters) {
    let mut session = adapters.lead().await;
    let waiting = ["m2", "m3"].map(|id| failed(id, 0, RetryDecision::Wait));
    record(&adapters, [failed("m1", 0, NOW)].into_iter().chain(waiting)).await;
    publish(&mut *session).await;
    adapters.purge(&mut *session).await;
    assert_eq!(due_ids(&mut *session, 10).await, []);
    handle(&adapters, "m1").await;
    adapters.purge(&mut *session).await;
    assert_eq!(due_ids(&mut *session, 10).await, ids(&["m2"]));
}

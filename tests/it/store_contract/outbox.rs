//! The contract of the outbox and of the leader session.

use allocation::{
    domain::{OutboxRow, Sku},
    ports::{
        outbox::EventFeed,
        store::{ChangeSet, OutboxEvent},
    },
};
use tokio::time::timeout;

use crate::harness::{SOON, wait_until};

use super::adapters::{Adapters, every_outbox};

every_outbox!(
    one_session_is_leader_at_a_time,
    events_are_read_in_the_order_of_their_commits,
    removed_events_are_not_read_again,
    a_parked_event_blocks_its_sku_until_it_is_unparked,
    only_parked_events_can_be_unparked,
    a_commit_wakes_the_relay_up,
);

fn event(sku: &str, sequence: i64) -> OutboxEvent {
    OutboxEvent {
        sku: Sku::new(sku).unwrap(),
        sequence,
        name: "allocated",
        body: format!("{{\"qty\": {sequence}}}"),
        causation_id: "cause".into(),
        correlation_id: "request".into(),
        traceparent: Some("trace".into()),
        tracestate: Some("state".into()),
    }
}

/// Commits events of these SKUs, each with its position as its sequence.
async fn commit(adapters: &Adapters, skus: &[&str]) {
    let events = (1..).zip(skus).map(|(sequence, sku)| event(sku, sequence)).collect();
    adapters.commit(ChangeSet { events, ..ChangeSet::default() }).await;
}

async fn read(session: &mut dyn EventFeed) -> Vec<OutboxRow> {
    session.unpublished(100, &[]).await.unwrap()
}

/// The unpublished events by SKU and sequence.
async fn unpublished(session: &mut dyn EventFeed) -> Vec<(String, i64)> {
    read(session).await.into_iter().map(|row| (row.sku, row.sequence)).collect()
}

fn expected(events: &[(&str, i64)]) -> Vec<(String, i64)> {
    events.iter().map(|(sku, sequence)| (sku.to_string(), *sequence)).collect()
}

async fn one_session_is_leader_at_a_time(adapters: Adapters) {
    let session = adapters.lead().await;
    assert!(adapters.other.try_lead().await.unwrap().is_none());
    assert!(adapters.outbox.try_lead().await.unwrap().is_none());
    session.release().await;
    let session = adapters.other.try_lead().await.unwrap().expect("leadership was released");
    assert!(adapters.outbox.try_lead().await.unwrap().is_none());
    drop(session);
    let takes_over = async || adapters.outbox.try_lead().await.unwrap().is_some();
    wait_until("leadership is free after the session was lost", SOON, takes_over).await;
}

async fn events_are_read_in_the_order_of_their_commits(adapters: Adapters) {
    let mut session = adapters.lead().await;
    assert!(!session.pending().await.unwrap().events);
    commit(&adapters, &["A", "B"]).await;
    commit(&adapters, &["A", "C"]).await;
    assert!(session.pending().await.unwrap().events);
    let rows = read(&mut *session).await;
    assert!(rows.is_sorted_by(|one, next| one.id < next.id));
    let OutboxRow {
        name, sku, sequence, body, causation_id, correlation_id, traceparent, tracestate, ..
    } = &rows[1];
    assert_eq!(
        (name.as_str(), sku.as_str(), *sequence, body.as_str()),
        ("allocated", "B", 2, "{\"qty\": 2}")
    );
    let trace =
        (causation_id.as_str(), correlation_id.as_str(), traceparent.as_deref(), tracestate.as_deref());
    assert_eq!(trace, ("cause", "request", Some("trace"), Some("state")));
    assert_eq!(unpublished(&mut *session).await, expected(&[("A", 1), ("B", 2), ("A", 1), ("C", 2)]));
    let first = session.unpublished(3, &[]).await.unwrap();
    assert_eq!(first, rows[..3]);
    let except = session.unpublished(2, &["A".into()]).await.unwrap();
    assert_eq!(except, [rows[1].clone(), rows[3].clone()]);
}

async fn removed_events_are_not_read_again(adapters: Adapters) {
    commit(&adapters, &["A", "B", "C"]).await;
    let mut session = adapters.lead().await;
    let ids: Vec<_> = read(&mut *session).await.iter().map(|row| row.id).collect();
    session.remove(&[ids[0], ids[2]], &[ids[2]]).await.unwrap();
    assert_eq!(unpublished(&mut *session).await, expected(&[("B", 2)]));
    session.remove(&[ids[0], ids[1]], &[]).await.unwrap();
    assert!(!session.pending().await.unwrap().events);
    commit(&adapters, &["D"]).await;
    let rows = read(&mut *session).await;
    assert!(rows.len() == 1 && rows[0].id > ids[2], "{rows:?}");
}

async fn a_parked_event_blocks_its_sku_until_it_is_unparked(adapters: Adapters) {
    commit(&adapters, &["A", "A", "B", "A"]).await;
    let mut session = adapters.lead().await;
    let rows = read(&mut *session).await;
    session.park(rows[1].id, "too large").await.unwrap();
    assert_eq!(unpublished(&mut *session).await, expected(&[("B", 3)]));
    session.remove(&[rows[2].id], &[]).await.unwrap();
    assert!(!session.pending().await.unwrap().events);
    assert_eq!(adapters.parked.unpark(Some(&[rows[1].id])).await.unwrap(), 1);
    assert!(session.pending().await.unwrap().events);
    assert_eq!(unpublished(&mut *session).await, expected(&[("A", 1), ("A", 2), ("A", 4)]));
    session.park(rows[1].id, "still too large").await.unwrap();
    session.release().await;
    let mut next = adapters.other.try_lead().await.unwrap().expect("leadership was released");
    assert!(!next.pending().await.unwrap().events, "another leader does not publish it either");
}

async fn only_parked_events_can_be_unparked(adapters: Adapters) {
    commit(&adapters, &["A", "B", "C"]).await;
    let mut session = adapters.lead().await;
    let ids: Vec<_> = read(&mut *session).await.iter().map(|row| row.id).collect();
    session.park(ids[2] + 1, "does not exist").await.unwrap();
    session.park(ids[0], "too large").await.unwrap();
    session.park(ids[1], "too large").await.unwrap();
    assert_eq!(adapters.parked.unpark(Some(&[])).await.unwrap(), 0);
    assert_eq!(adapters.parked.unpark(Some(&[ids[1], ids[2], ids[2] + 1])).await.unwrap(), 1);
    assert_eq!(unpublished(&mut *session).await, expected(&[("B", 2), ("C", 3)]));
    assert_eq!(adapters.parked.unpark(None).await.unwrap(), 1);
    assert_eq!(adapters.parked.unpark(None).await.unwrap(), 0);
}

async fn a_commit_wakes_the_relay_up(adapters: Adapters) {
    commit(&adapters, &["A"]).await;
    timeout(SOON, adapters.outbox.wait_for_wakeup()).await.expect("an earlier commit wakes the relay up");
    let wakeup = timeout(SOON, adapters.outbox.wait_for_wakeup());
    let (wakeup, ()) = tokio::join!(wakeup, commit(&adapters, &["B"]));
    wakeup.expect("a later commit wakes the relay up");
}

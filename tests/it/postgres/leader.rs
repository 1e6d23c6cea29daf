//! The replacement of a leader that does not poll.

use std::{sync::Arc, time::Duration};

use allocation::{
    adapters::postgres::PgOutbox,
    ports::{error::StoreError, outbox::Outbox as _},
};

use crate::harness::{Database, NAMESPACE, wait_until};

/// The leader is unresponsive: its session has been idle for more than 3 s.
const UNRESPONSIVE: &str = "select count(*) from pg_locks held join pg_stat_activity session using (pid)
     where held.locktype = 'advisory' and held.granted and session.datname = current_database()
       and session.state = 'idle' and session.state_change < now() - interval '3.2 seconds'";
/// A session whose statement has taken longer than that.
const BUSY: &str = "select count(*) from pg_stat_activity
     where datname = current_database() and state = 'active' and state_change < now() - interval '3.2 seconds'";

async fn wait_for_one(what: &str, question: &str, db: &Database) {
    wait_until(what, Duration::from_secs(15), async || db.count(question).await == 1).await;
}

#[tokio::test]
async fn a_leader_whose_session_is_idle_for_too_long_is_replaced() {
    let db = Database::new().await;
    let mut unresponsive = db.lead().await;
    let standby = db.outbox();
    assert!(standby.try_lead().await.unwrap().is_none(), "its session was not idle for long enough");
    wait_for_one("the leader is unresponsive", UNRESPONSIVE, &db).await;
    let takes_over = async || standby.try_lead().await.unwrap().is_some();
    wait_until("the standby is the leader", Duration::from_secs(5), takes_over).await;
    assert!(unresponsive.pending().await.is_err(), "the session of the old leader has ended");
}

/// The leader waits for a slow statement.
#[tokio::test]
async fn a_leader_that_waits_for_the_server_is_not_replaced() {
    let db = Database::new().await;
    db.before_the_last_id("perform pg_sleep(4.5)").await;
    let mut busy = db.lead().await;
    let standby = db.outbox();
    let poll = tokio::spawn(async move { busy.pending().await });
    wait_for_one("the leader waits for a long time", BUSY, &db).await;
    assert!(standby.try_lead().await.unwrap().is_none());
    let pending = poll.await.unwrap();
    assert!(pending.is_ok(), "its session was terminated: {pending:?}");
}

/// After a change of credentials the session of the old leader belongs to another role. PostgreSQL neither shows its state to
/// the new role nor lets it terminate the session. Unless the new role is a member of the old one, no standby takes over
/// before the server ends the session.
#[tokio::test]
async fn an_unresponsive_leader_of_another_role_is_replaced_only_by_a_member_of_its_role() {
    let db = Database::new().await;
    let old = db.create_role("").await;
    let role = |name: &str| PgOutbox::new(db.config_as(name), NAMESPACE, Arc::default());
    let other_role = role(&db.create_role("").await);
    let observer = role(&db.create_role("grant pg_read_all_stats to ROLE").await);
    let member = role(&db.create_role(&format!("grant {old} to ROLE")).await);
    let mut unresponsive = role(&old).try_lead().await.unwrap().expect("there is no other leader");
    wait_for_one("the leader is unresponsive", UNRESPONSIVE, &db).await;

    assert!(other_role.try_lead().await.unwrap().is_none(), "the role cannot see the state of the leader");
    let rejected = observer.try_lead().await.map(|session| session.is_some());
    assert!(
        matches!(&rejected, Err(StoreError::Unavailable(cause)) if cause.to_string().contains("42501")),
        "{rejected:?}"
    );
    assert_eq!(db.count(UNRESPONSIVE).await, 1, "the session of the leader was not terminated");

    let takes_over = async || member.try_lead().await.unwrap().is_some();
    wait_until("the member is the leader", Duration::from_secs(5), takes_over).await;
    assert!(unresponsive.pending().await.is_err());
}

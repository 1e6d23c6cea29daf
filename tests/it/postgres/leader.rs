//! When another relay takes the lead from one that does not answer, and when it does not.

use std::{sync::Arc, time::Duration};

use allocation::{
    adapters::postgres::PgOutbox,
    ports::{error::StoreError, outbox::Outbox as _},
};

use crate::harness::{Database, wait_until};

/// A leader counts as frozen after 3 s.
const FROZEN: &str = "select count(*) from pg_locks held join pg_stat_activity session using (pid)
     where held.locktype = 'advisory' and held.granted and session.datname = current_database()
       and session.state = 'idle' and session.state_change < now() - interval '3.2 seconds'";
/// One question that takes longer than that.
const BUSY: &str = "select count(*) from pg_stat_activity
     where datname = current_database() and state = 'active' and state_change < now() - interval '3.2 seconds'";

async fn wait_for_one(what: &str, question: &str, db: &Database) {
    wait_until(what, Duration::from_secs(15), async || db.count(question).await == 1).await;
}

#[tokio::test]
async fn a_leader_whose_session_is_idle_for_too_long_is_replaced() {
    let db = Database::new().await;
    let mut frozen = db.lead().await;
    let standby = db.outbox();
    assert!(standby.try_lead().await.unwrap().is_none(), "it is not idle for long");
    wait_for_one("the leader is frozen", FROZEN, &db).await;
    let takes_over = async || standby.try_lead().await.unwrap().is_some();
    wait_until("the standby leads", Duration::from_secs(5), takes_over).await;
    assert!(frozen.pending().await.is_err(), "the session of the frozen leader has ended");
}

/// It is the server that takes its time.
#[tokio::test]
async fn a_leader_that_waits_for_an_answer_is_not_taken_for_frozen() {
    let db = Database::new().await;
    db.before_the_last_id("perform pg_sleep(4.5)").await;
    let mut busy = db.lead().await;
    let standby = db.outbox();
    let asked = tokio::spawn(async move { busy.pending().await });
    wait_for_one("the leader waits for long", BUSY, &db).await;
    assert!(standby.try_lead().await.unwrap().is_none());
    let look = asked.await.unwrap();
    assert!(look.is_ok(), "its session was ended: {look:?}");
}

/// A limit: after a change of credentials the old leader's session belongs to another role, whose state PostgreSQL does
/// not show and whose sessions it does not let others end. No relay takes over until the server itself gives that session
/// up. The new role must be a member of the old one.
#[tokio::test]
async fn a_frozen_leader_of_another_role_is_replaced_only_by_a_member_of_its_role() {
    let db = Database::new().await;
    let old = db.create_role("").await;
    let role = |name: &str| PgOutbox::new(db.access_as(name), Arc::default());
    let stranger = role(&db.create_role("").await);
    let observer = role(&db.create_role("grant pg_read_all_stats to ROLE").await);
    let member = role(&db.create_role(&format!("grant {old} to ROLE")).await);
    let mut frozen = role(&old).try_lead().await.unwrap().expect("no other relay leads");
    wait_for_one("the leader is frozen", FROZEN, &db).await;

    assert!(stranger.try_lead().await.unwrap().is_none(), "it does not see the state of the leader");
    let refused = observer.try_lead().await.map(|lead| lead.is_some());
    assert!(
        matches!(&refused, Err(StoreError::Unavailable(cause)) if cause.to_string().contains("42501")),
        "{refused:?}"
    );
    assert_eq!(db.count(FROZEN).await, 1, "the leader is as it was");

    let takes_over = async || member.try_lead().await.unwrap().is_some();
    wait_until("the member leads", Duration::from_secs(5), takes_over).await;
    assert!(frozen.pending().await.is_err());
}

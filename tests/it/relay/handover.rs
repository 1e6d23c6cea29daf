//! Leadership passes from one relay to another immediately after a shutdown.

use std::sync::Arc;

use allocation::{adapters::postgres::PgOutbox, pg::PgConfig, ports::outbox::Outbox as _};
use sqlx::postgres::PgListener;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::harness::{SOON, TestSystem, wait_for, wait_until};

use super::{became_leader, relay};

/// Sessions that listen for commits.
const LISTENING: &str = "select count(*) from pg_stat_activity
     where datname = current_database() and query ilike 'listen%'";

#[tokio::test]
async fn a_shutdown_announces_that_leadership_is_free() {
    let system = TestSystem::new("a_shutdown_announces_that_leadership_is_free").await;
    let first = relay(&system);
    wait_until("the first relay is the leader", SOON, async || became_leader(&first)).await;
    let second = relay(&system);
    wait_until("the second relay is a standby", SOON, async || second.log().contains("running")).await;
    let mut listener = PgListener::connect_with(&system.pool).await.unwrap();
    listener.listen("allocation_outbox").await.unwrap();
    assert!(first.terminate().await.success());
    let announced = timeout(SOON, listener.recv()).await;
    announced.expect("the shutdown is announced").unwrap();
    wait_until("the second relay is the leader", SOON, async || became_leader(&second)).await;
    drop(listener);
    system.close_after([second]).await;
}

/// No commit wakes the standby up.
#[tokio::test]
async fn a_standby_wakes_up_when_leadership_is_free() {
    let system = TestSystem::new("a_standby_wakes_up_when_leadership_is_free").await;
    let outbox = || {
        let config = PgConfig::new(&system.database_url(), 2, SOON).unwrap();
        Arc::new(PgOutbox::new(config, &system.namespace, Arc::default()))
    };
    let (first, standby) = (outbox(), outbox());
    let session = first.try_lead().await.unwrap().expect("leadership is free");
    assert!(standby.try_lead().await.unwrap().is_none());
    let _listening = AbortOnDropHandle::new(tokio::spawn({
        let standby = standby.clone();
        async move { standby.listen().await }
    }));
    wait_for("the standby listens", SOON, &1, async || system.count(LISTENING).await).await;
    session.release().await;
    timeout(SOON, standby.wait_for_wakeup()).await.expect("the standby wakes up");
    let session = standby.try_lead().await.unwrap().expect("leadership is free");
    session.release().await;
    system.close().await;
}

//! Leadership passes from one relay to another: at once after a clean stop, and after a lost session.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use allocation::{
    adapters::postgres::PgOutbox,
    domain::{OutboxRow, PublishOutcome},
    pg::PgConfig,
    ports::{
        error::StoreError,
        failed_messages::DueRetry,
        outbox::{EventFeed, LeaderSession, Outbox, PendingWork, Publisher, Retention, RetryFeed, Upkeep},
    },
    service::{availability::AvailabilityLog, relay::Relay},
};
use async_trait::async_trait;
use sqlx::postgres::PgListener;
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use uuid::Uuid;

use crate::harness::{SOON, TestSystem, wait_for, wait_until};

use super::{became_leader, relay};

/// Sessions that listen for commits.
const LISTENING: &str = "select count(*) from pg_stat_activity
     where datname = current_database() and query ilike 'listen%'";

#[tokio::test]
async fn a_clean_stop_announces_that_leadership_is_free() {
    let system = TestSystem::new("a_clean_stop_announces_that_leadership_is_free").await;
    let first = relay(&system);
    wait_until("it is the leader", SOON, async || became_leader(&first)).await;
    let second = relay(&system);
    wait_until("the other is a standby", SOON, async || second.log().contains("running")).await;
    let mut listener = PgListener::connect_with(&system.pool).await.unwrap();
    listener.listen("allocation_outbox").await.unwrap();
    assert!(first.terminate().await.success());
    let announced = timeout(SOON, listener.recv()).await;
    announced.expect("nothing else is announced in this database").unwrap();
    wait_until("the other is the leader", SOON, async || became_leader(&second)).await;
    drop(listener);
    system.close_after([second]).await;
}

/// Nothing else wakes it up: nothing is committed.
#[tokio::test]
async fn a_standby_wakes_up_when_leadership_is_free() {
    let system = TestSystem::new("a_standby_wakes_up_when_leadership_is_free").await;
    let outbox = || {
        let access = PgConfig::new(&system.database_url(), 2, SOON).unwrap();
        Arc::new(PgOutbox::new(access, Arc::default()))
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

/// An outbox whose session is lost after one window was read.
#[derive(Clone, Default)]
struct LostSession {
    polls: Arc<AtomicUsize>,
    tries: Arc<AtomicUsize>,
}

#[async_trait]
impl Outbox for LostSession {
    async fn try_lead(&self) -> Result<Option<Box<dyn LeaderSession>>, StoreError> {
        match self.tries.fetch_add(1, Ordering::SeqCst) {
            0 => Ok(Some(Box::new(self.clone()))),
            _ => Ok(None),
        }
    }

    async fn wait_for_wakeup(&self) {
        std::future::pending::<()>().await;
    }
}

fn lost<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable("the session is lost".into()))
}

#[async_trait]
impl LeaderSession for LostSession {
    async fn release(self: Box<Self>) {}
}

#[async_trait]
impl EventFeed for LostSession {
    async fn pending(&mut self) -> Result<PendingWork, StoreError> {
        match self.polls.fetch_add(1, Ordering::SeqCst) {
            0 => Ok(PendingWork { events: true, retry_in: None }),
            _ => lost(),
        }
    }

    async fn unpublished(&mut self, _at_most: u32, _except: &[String]) -> Result<Vec<OutboxRow>, StoreError> {
        Ok(vec![OutboxRow {
            id: 1,
            event_id: Uuid::nil(),
            name: "allocated".into(),
            sku: "LAMP".into(),
            sequence: 1,
            body: "{}".into(),
            causation_id: "c".into(),
            correlation_id: "c".into(),
            traceparent: None,
            committed_at: 0,
        }])
    }

    async fn remove(&mut self, _ids: &[i64], _unroutable: i64) -> Result<(), StoreError> {
        lost()
    }

    async fn park(&mut self, _id: i64, _reason: &str) -> Result<(), StoreError> {
        lost()
    }
}

#[async_trait]
impl RetryFeed for LostSession {
    async fn due(&mut self, _at_most: u32) -> Result<Vec<DueRetry>, StoreError> {
        lost()
    }

    async fn published(&mut self, _retries: &[&DueRetry]) -> Result<(), StoreError> {
        lost()
    }

    async fn defer(&mut self, _retries: &[&DueRetry], _reason: &str) -> Result<(), StoreError> {
        lost()
    }

    async fn reject(&mut self, _retry: &DueRetry, _reason: &str) -> Result<(), StoreError> {
        lost()
    }
}

#[async_trait]
impl Upkeep for LostSession {
    async fn purge(&mut self, _retention: Retention) -> Result<bool, StoreError> {
        Ok(false)
    }
}

/// A broker that never confirms.
struct Silent;

#[async_trait]
impl Publisher for Silent {
    async fn publish(&self, _rows: &[OutboxRow]) -> Vec<PublishOutcome> {
        std::future::pending().await
    }

    async fn publish_retries(&self, _retries: &[DueRetry]) -> Vec<PublishOutcome> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_relay_that_loses_its_session_drops_its_publication() {
    let outbox = LostSession::default();
    let hour = Duration::from_hours(1);
    let relay = Relay {
        outbox: Arc::new(outbox.clone()),
        publisher: Arc::new(Silent),
        max_in_flight: 100,
        retention: Retention { inbox: hour, failures: hour },
        database: Arc::new(AvailabilityLog::of("database")),
        broker: Arc::new(AvailabilityLog::of("broker")),
    };
    let _running = AbortOnDropHandle::new(tokio::spawn(async move {
        relay.run(&CancellationToken::new()).await;
    }));
    let again = async || outbox.tries.load(Ordering::SeqCst) > 1;
    wait_until("it tries to become leader again", SOON, again).await;
}

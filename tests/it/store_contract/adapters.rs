//! The adapters of store and outbox, in memory and for PostgreSQL.

use std::{sync::Arc, time::Duration};

use allocation::{
    adapters::{
        memory::{MemoryStore, RecordedFailure},
        postgres::{CommitSignal, PgOutbox, PgParkedEvents, PgStore},
    },
    domain::{Reason, Status, StatusKind},
    ports::{
        outbox::{LeaderSession, Outbox, ParkedEvents, Retention},
        queue::QueueName,
        store::{ChangeSet, Store},
    },
};

use sqlx::PgPool;

use crate::harness::{Database, NAMESPACE};

/// A store, its outbox as two processes use it, and its parked events.
pub(super) struct Adapters {
    pub(super) store: Arc<dyn Store>,
    pub(super) outbox: Arc<dyn Outbox>,
    pub(super) other: Arc<dyn Outbox>,
    pub(super) parked: Arc<dyn ParkedEvents>,
    state: State,
}

/// The columns of a failed message.
type Recorded = (Option<String>, String, Option<String>, String, Option<String>, Option<String>);

/// The state of the adapters, for what their ports do not show.
enum State {
    Memory(MemoryStore),
    Postgres(PgPool),
}

impl Adapters {
    pub(super) fn in_memory() -> Self {
        let store = MemoryStore::default();
        let shared = || Arc::new(store.clone());
        let state = State::Memory(store.clone());
        Self { store: shared(), outbox: shared(), other: shared(), parked: shared(), state }
    }

    pub(super) fn in_postgres(db: &Database) -> Self {
        let (config, commit_signal) = (db.config(), Arc::<CommitSignal>::default());
        Self {
            store: Arc::new(PgStore::new(db.pool.clone(), &config, commit_signal.clone())),
            outbox: Arc::new(PgOutbox::new(config.clone(), NAMESPACE, commit_signal)),
            parked: Arc::new(PgParkedEvents::new(db.pool.clone(), &config)),
            other: Arc::new(PgOutbox::new(config, NAMESPACE, Arc::default())),
            state: State::Postgres(db.pool.clone()),
        }
    }

    /// Commits a transaction about messages of `orders`.
    pub(super) async fn commit(&self, changes: ChangeSet) {
        let tx = self.store.begin(QueueName::Orders).await.unwrap();
        tx.commit(changes).await.unwrap();
    }

    pub(super) async fn lead(&self) -> Box<dyn LeaderSession> {
        self.outbox.try_lead().await.unwrap().expect("there is no other leader")
    }
}

impl Adapters {
    /// Makes everything older by `time`.
    pub(super) async fn pass_time(&self, time: Duration) {
        match &self.state {
            State::Memory(_) => {
                tokio::time::pause();
                tokio::time::advance(time).await;
                tokio::time::resume();
            }
            State::Postgres(pool) => {
                let seconds = time.as_secs();
                let older = format!(
                    "update inbox set handled_at = handled_at - interval '{seconds} s';
                     update message_starts set started_at = started_at - interval '{seconds} s';
                     update failed_messages set due_at = due_at - interval '{seconds} s',
                         published_at = published_at - interval '{seconds} s',
                         ended_at = ended_at - interval '{seconds} s'"
                );
                sqlx::raw_sql(&older).execute(pool).await.unwrap();
            }
        }
    }

    /// By which commands messages have been overtaken.
    pub(super) async fn overtaken_by(&self, message_ids: &[&str]) -> Vec<Option<String>> {
        let rows: Vec<(String, Option<String>)> = match &self.state {
            State::Memory(store) => {
                let state = store.state().await;
                let rows = (1..).map_while(|id| state.failed_message(id));
                rows.filter_map(|row| Some((row.message_id?, row.overtaken_by))).collect()
            }
            State::Postgres(pool) => {
                let query = "select message_id, overtaken_by from failed_messages";
                sqlx::query_as(query).fetch_all(pool).await.unwrap()
            }
        };
        let of =
            |id: &&str| rows.iter().find(|(message_id, _)| message_id == id).and_then(|(_, by)| by.clone());
        message_ids.iter().map(of).collect()
    }

    /// Removes nothing, and does the rest of the upkeep.
    pub(super) async fn purge(&self, session: &mut dyn LeaderSession) {
        let kept = Duration::from_hours(1000);
        let retention = Retention { inbox: kept, failures: kept, published: kept };
        assert!(!session.purge(retention).await.unwrap().is_incomplete);
    }

    /// A failed message.
    pub(super) async fn failed_message(&self, id: i64) -> RecordedFailure {
        match &self.state {
            State::Memory(store) => store.state().await.failed_message(id).unwrap(),
            State::Postgres(pool) => {
                let query = "select message_id, status, reason, error, held_because, overtaken_by
                             from failed_messages where id = $1";
                let (message_id, status, reason, error, held_because, overtaken_by): Recorded =
                    sqlx::query_as(query).bind(id).fetch_one(pool).await.unwrap();
                let reason = reason.and_then(|reason| Reason::from_name(&reason));
                let status = Status::new(StatusKind::from_name(&status).unwrap(), reason).unwrap();
                RecordedFailure { message_id, status, error, held_because, overtaken_by }
            }
        }
    }
}

/// Runs each promise, a function of [`Adapters`], with the adapters in memory and with those for PostgreSQL.
macro_rules! every_outbox {
    ($($promise:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise(super::Adapters::in_memory()).await;
            })+
        }
        mod postgres {
            $(#[tokio::test]
            async fn $promise() {
                let db = crate::harness::Database::new().await;
                super::$promise(super::Adapters::in_postgres(&db)).await;
            })+
        }
    };
}
pub(super) use every_outbox;

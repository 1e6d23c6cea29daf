//! The adapters of store and outbox, in memory and for PostgreSQL.

use std::sync::Arc;

use allocation::{
    adapters::{
        memory::MemoryStore,
        postgres::{CommitSignal, PgOutbox, PgParkedEvents, PgStore},
    },
    ports::{
        outbox::{LeaderSession, Outbox, ParkedEvents},
        queue::QueueName,
        store::{ChangeSet, Store},
    },
};

use crate::harness::Database;

/// A store, its outbox as two processes use it, and its parked events.
pub(super) struct Adapters {
    pub(super) store: Arc<dyn Store>,
    pub(super) outbox: Arc<dyn Outbox>,
    pub(super) other: Arc<dyn Outbox>,
    pub(super) parked: Arc<dyn ParkedEvents>,
}

impl Adapters {
    pub(super) fn in_memory() -> Self {
        let store = MemoryStore::default();
        let shared = || Arc::new(store.clone());
        Self { store: shared(), outbox: shared(), other: shared(), parked: shared() }
    }

    pub(super) fn in_postgres(db: &Database) -> Self {
        let (config, commit_signal) = (db.config(), Arc::<CommitSignal>::default());
        Self {
            store: Arc::new(PgStore::new(db.pool.clone(), &config, commit_signal.clone())),
            outbox: Arc::new(PgOutbox::new(config.clone(), commit_signal)),
            parked: Arc::new(PgParkedEvents::new(db.pool.clone(), &config)),
            other: Arc::new(PgOutbox::new(config, Arc::default())),
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

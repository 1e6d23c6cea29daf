//! The store over a pool, and one transaction on one of its connections.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::PgPool;

use crate::{
    crash_points::{self, CrashPoint, PlantedBug},
    domain::{Product, Reference},
    ports::{
        ledger::FailureKey,
        queue::QueueName,
        store::{Footprint, Receipt, Sight, Store, StoreError, Tx, Work},
    },
};

use super::{Access, Commits, failures, inbox, outbox, products, read_model, session::Session};

/// Keeps everything in one database.
#[derive(Clone)]
pub struct PgStore {
    pool: PgPool,
    patience: Duration,
    commits: Arc<Commits>,
}

impl PgStore {
    /// A store over `pool`; `commits` is told when there is something for the relay.
    #[must_use]
    pub fn new(pool: PgPool, access: &Access, commits: Arc<Commits>) -> Self {
        Self { pool, patience: access.patience, commits }
    }
}

#[async_trait]
impl Store for PgStore {
    async fn begin(&self, queue: QueueName) -> Result<Box<dyn Tx>, StoreError> {
        let session = Session::begin(&self.pool, self.patience).await?;
        Ok(Box::new(PgTx { session, queue: queue.as_str(), commits: self.commits.clone() }))
    }

    async fn probe(&self) -> Result<(), StoreError> {
        let mut session = Session::open(&self.pool, self.patience).await?;
        session.statement("select 1").await?;
        session.give_back();
        Ok(())
    }

    async fn starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<Vec<u32>, StoreError> {
        let mut session = Session::open(&self.pool, self.patience).await?;
        let starts =
            session.run(async |connection| failures::starts(connection, queue.as_str(), ids).await).await?;
        session.give_back();
        Ok(starts)
    }

    async fn count_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<(), StoreError> {
        let mut session = Session::open(&self.pool, self.patience).await?;
        session.run(async |connection| failures::count_starts(connection, queue.as_str(), ids).await).await?;
        session.give_back();
        Ok(())
    }
}

struct PgTx {
    session: Session,
    queue: &'static str,
    commits: Arc<Commits>,
}

impl PgTx {
    async fn write(&mut self, work: &Work) -> Result<(), StoreError> {
        let queue = self.queue;
        let written = self.session.run(async |connection| {
            inbox::forget(connection, queue, &work.unhandled).await?;
            failures::resolve(connection, queue, &work.handled).await?;
            failures::record(connection, queue, &work.failures).await?;
            failures::forget_starts(connection, queue, &work.ended).await?;
            let versions = products::write(connection, &work.products).await?;
            crash_points::here(CrashPoint::WorkerMidWrite);
            read_model::write(connection, &work.view).await?;
            outbox::append(connection, &work.events).await?;
            Ok(versions)
        });
        match written.await? {
            products::Versions::AsLoaded => Ok(()),
            products::Versions::Moved => Err(StoreError::Conflict("a product changed under its lock".into())),
        }
    }
}

#[async_trait]
impl Tx for PgTx {
    async fn first_sights(&mut self, receipts: &[Receipt]) -> Result<Vec<Sight>, StoreError> {
        let queue = self.queue;
        let sights = self
            .session
            .run(async |connection| inbox::first_sights(connection, queue, receipts).await)
            .await?;
        if crash_points::planted(PlantedBug::InboxApart) {
            self.session.statement("commit; begin").await?;
        }
        if crash_points::planted(PlantedBug::IgnoreInbox) {
            return Ok(vec![Sight::First; sights.len()]);
        }
        Ok(sights)
    }

    async fn failed_attempts(&mut self, keys: &[FailureKey]) -> Result<Vec<u32>, StoreError> {
        let queue = self.queue;
        self.session.run(async |connection| failures::attempts(connection, queue, keys).await).await
    }

    async fn load_products(&mut self, footprint: &Footprint) -> Result<Vec<Product>, StoreError> {
        self.session.run(async |connection| products::load(connection, footprint).await).await
    }

    async fn learn_waiting_lines(&mut self, product: &mut Product) -> Result<(), StoreError> {
        self.session.run(async |connection| products::learn_waiting_lines(connection, product).await).await
    }

    async fn learn_newest_lines(
        &mut self,
        product: &mut Product,
        batch: &Reference,
        units: u32,
    ) -> Result<(), StoreError> {
        let learn =
            async |connection: &mut _| products::learn_newest_lines(connection, product, batch, units).await;
        self.session.run(learn).await
    }

    async fn commit(mut self: Box<Self>, work: Work) -> Result<(), StoreError> {
        if let Err(error) = self.write(&work).await {
            self.session.rollback().await;
            return Err(error);
        }
        crash_points::here(CrashPoint::WorkerBeforeCommit);
        if !work.failures.is_empty() {
            crash_points::here(CrashPoint::FailureBeforeCommit);
        }
        self.session.commit().await?;
        crash_points::here(CrashPoint::WorkerAfterCommit);
        if !work.failures.is_empty() {
            crash_points::here(CrashPoint::FailureAfterCommit);
        }
        if !(work.events.is_empty() && work.failures.is_empty()) {
            self.commits.happened();
        }
        Ok(())
    }

    async fn rollback(self: Box<Self>) {
        self.session.rollback().await;
    }
}

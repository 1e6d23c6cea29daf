//! The store over a pool, and one transaction on one of its connections.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::PgPool;

use crate::{
    crash_points::{self, CrashPoint, PlantedBug},
    domain::{Product, Reference},
    ports::{
        ledger::FailureKey,
        queue::{QueueName, RetryMark},
        store::{Footprint, Receipt, RetryCheck, Sight, Store, StoreError, Tx, Work},
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
        let mut session = Session::begin(&self.pool, self.patience).await?;
        if queue == QueueName::Notifications {
            // A mail server may take longer than other transactions may rest.
            session.statement("set local idle_in_transaction_session_timeout = '5min'").await?;
        }
        Ok(Box::new(PgTx { session, queue: queue.as_str(), commits: self.commits.clone() }))
    }

    async fn probe(&self) -> Result<(), StoreError> {
        let mut session = Session::begin(&self.pool, self.patience).await?;
        session.run(async |connection| inbox::write_and_remove(connection).await).await?;
        session.commit().await
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

    async fn take_back_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<(), StoreError> {
        let mut session = Session::open(&self.pool, self.patience).await?;
        let taken_back =
            session.run(async |connection| failures::take_back_starts(connection, queue.as_str(), ids).await);
        taken_back.await?;
        session.give_back();
        Ok(())
    }
}

/// Rows of the read model or the outbox that one statement writes: as [`products::write`] does with lines.
const ROWS_AT_ONCE: usize = 5_000;

struct PgTx {
    session: Session,
    queue: &'static str,
    commits: Arc<Commits>,
}

impl PgTx {
    async fn write(&mut self, work: &Work) -> Result<(), StoreError> {
        let queue = self.queue;
        let session = &mut self.session;
        let settled = session.run(async |connection| {
            inbox::forget(connection, queue, &work.unhandled).await?;
            failures::resolve(connection, queue, &work.handled).await?;
            failures::record(connection, queue, &work.failures).await?;
            failures::forget_starts(connection, queue, &work.ended).await
        });
        settled.await?;
        if let products::Versions::Moved = products::write(session, &work.products).await? {
            return Err(StoreError::Conflict("a product changed under its lock".into()));
        }
        crash_points::here(CrashPoint::WorkerMidWrite);
        for rows in work.view.chunks(ROWS_AT_ONCE) {
            session.run(async |connection| read_model::write(connection, rows).await).await?;
        }
        for events in work.events.chunks(ROWS_AT_ONCE) {
            session.run(async |connection| outbox::append(connection, events).await).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Tx for PgTx {
    async fn first_sights(&mut self, receipts: &[Receipt]) -> Result<Vec<Sight>, StoreError> {
        let queue = self.queue;
        let sights = self
            .session
            .run(async |connection| inbox::first_sights(connection, queue, receipts).await)
            .await?
            .ok_or_else(inbox::removed_meanwhile)?;
        if crash_points::planted(PlantedBug::InboxApart) {
            self.session.statement("commit; begin").await?;
        }
        if crash_points::planted(PlantedBug::IgnoreInbox) {
            return Ok(vec![Sight::First; sights.len()]);
        }
        Ok(sights)
    }

    async fn check_retries(&mut self, marks: &[RetryMark]) -> Result<Vec<RetryCheck>, StoreError> {
        let queue = self.queue;
        // A mail is sent in this transaction, and cannot be recalled.
        let lock = queue != QueueName::Notifications.as_str();
        let check = async |connection: &mut _| failures::check_retries(connection, queue, marks, lock).await;
        self.session.run(check).await
    }

    async fn failed_attempts(&mut self, keys: &[FailureKey]) -> Result<Vec<u32>, StoreError> {
        let queue = self.queue;
        self.session.run(async |connection| failures::attempts(connection, queue, keys).await).await
    }

    async fn load_products(&mut self, footprint: &Footprint) -> Result<Vec<Product>, StoreError> {
        self.session.run(async |connection| products::load(connection, footprint).await).await
    }

    async fn learn_waiting_lines(&mut self, product: &mut Product) -> Result<(), StoreError> {
        products::learn_waiting_lines(&mut self.session, product).await
    }

    async fn learn_newest_lines(
        &mut self,
        product: &mut Product,
        batch: &Reference,
        units: u32,
    ) -> Result<(), StoreError> {
        products::learn_newest_lines(&mut self.session, product, batch, units).await
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

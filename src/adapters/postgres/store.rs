//! The store over a pool, and one transaction on one of its connections.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::{PgConnection, PgPool, Postgres, pool::PoolConnection};

use crate::{
    domain::{Product, Reference},
    ports::store::{Footprint, Receipt, Sight, Store, StoreError, Tx, Work},
};

use super::{Access, Commits, inbox, outbox, products, read_model, within};

/// Keeps everything in one database.
#[derive(Clone)]
pub struct PgStore {
    pool: PgPool,
    patience: Duration,
    commits: Arc<Commits>,
}

impl PgStore {
    /// A store over `pool`; `commits` is told when events were committed.
    #[must_use]
    pub fn new(pool: PgPool, access: &Access, commits: Arc<Commits>) -> Self {
        Self {
            pool,
            patience: access.patience,
            commits,
        }
    }
}

#[async_trait]
impl Store for PgStore {
    async fn begin(&self) -> Result<Box<dyn Tx>, StoreError> {
        let connection = self.pool.acquire().await.map_err(super::store_error)?;
        let mut tx = PgTx {
            connection: Some(connection),
            queue: String::new(),
            patience: self.patience,
            commits: self.commits.clone(),
        };
        tx.run(async |connection| sqlx::raw_sql("begin").execute(connection).await)
            .await?;
        Ok(Box::new(tx))
    }
}

/// A transaction. One that does not end in order takes its connection with it: whatever was cut off half-way,
/// nobody will find it open in the pool.
struct PgTx {
    connection: Option<PoolConnection<Postgres>>,
    queue: String,
    patience: Duration,
    commits: Arc<Commits>,
}

impl PgTx {
    async fn run<T>(
        &mut self,
        statements: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        let connection = self
            .connection
            .as_mut()
            .expect("a transaction has a connection until it ends");
        within(self.patience, statements(connection)).await
    }

    async fn write(&mut self, work: &Work) -> Result<(), StoreError> {
        let queue = std::mem::take(&mut self.queue);
        let versions = self
            .run(async |connection| {
                inbox::forget(connection, &queue, &work.unhandled).await?;
                let versions = products::write(connection, &work.products).await?;
                read_model::write(connection, &work.view).await?;
                outbox::append(connection, &work.events).await?;
                Ok(versions)
            })
            .await?;
        match versions {
            products::Versions::AsLoaded => Ok(()),
            products::Versions::Moved => Err(StoreError::Conflict("a product changed under its lock".into())),
        }
    }
}

impl Drop for PgTx {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            drop(connection.detach());
        }
    }
}

#[async_trait]
impl Tx for PgTx {
    async fn first_sights(&mut self, queue: &str, receipts: &[Receipt]) -> Result<Vec<Sight>, StoreError> {
        queue.clone_into(&mut self.queue);
        self.run(async |connection| inbox::first_sights(connection, queue, receipts).await)
            .await
    }

    async fn load_products(&mut self, footprint: &Footprint) -> Result<Vec<Product>, StoreError> {
        self.run(async |connection| products::load(connection, footprint).await)
            .await
    }

    async fn learn_waiting_lines(&mut self, product: &mut Product) -> Result<(), StoreError> {
        self.run(async |connection| products::learn_waiting_lines(connection, product).await)
            .await
    }

    async fn learn_newest_lines(
        &mut self,
        product: &mut Product,
        batch: &Reference,
        units: u32,
    ) -> Result<(), StoreError> {
        self.run(async |connection| products::learn_newest_lines(connection, product, batch, units).await)
            .await
    }

    async fn commit(mut self: Box<Self>, work: Work) -> Result<(), StoreError> {
        if let Err(error) = self.write(&work).await {
            self.rollback().await;
            return Err(error);
        }
        self.run(async |connection| sqlx::raw_sql("commit").execute(connection).await)
            .await?;
        self.connection = None;
        if !work.events.is_empty() {
            self.commits.happened();
        }
        Ok(())
    }

    async fn rollback(mut self: Box<Self>) {
        if self
            .run(async |connection| sqlx::raw_sql("rollback").execute(connection).await)
            .await
            .is_ok()
        {
            self.connection = None;
        }
    }
}

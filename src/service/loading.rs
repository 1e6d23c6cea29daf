//! Loads the parts of products that the commands of a unit of work need.

use crate::{
    domain::{BatchRef, BatchSearch, Quantity, Sku},
    ports::{
        error::StoreError,
        store::{LoadedProducts, LockedRows, WorkingSet},
    },
};

use super::unit_of_work::UnitOfWork;

impl UnitOfWork {
    /// Loads and locks what commands need, and returns what another session has locked.
    pub(super) async fn load(&mut self, working_set: &WorkingSet) -> Result<LockedRows, StoreError> {
        if *working_set == WorkingSet::default() {
            return Ok(LockedRows::default());
        }
        let LoadedProducts { products, locked } = self.tx.load_products(working_set).await?;
        self.products.extend(products.into_iter().map(|product| (product.sku().clone(), product)));
        Ok(locked)
    }

    /// Loads batches of a product until the first one that a line of `quantity` fits into is known.
    pub(super) async fn ensure_first_fit(&mut self, sku: &Sku, quantity: Quantity) -> Result<(), StoreError> {
        while let Some(search) = self.products.get(sku).and_then(|product| product.missing_search(quantity)) {
            self.search_batches(sku, &search).await?;
        }
        Ok(())
    }

    /// Loads the batches of a product that a search finds.
    pub(super) async fn search_batches(&mut self, sku: &Sku, search: &BatchSearch) -> Result<(), StoreError> {
        let found = self.tx.search_batches(sku, search).await?;
        if let Some(product) = self.products.get_mut(sku) {
            product.attach_found(search, found);
        }
        Ok(())
    }

    /// Loads the waiting lines of a product that its freed stock may cover.
    pub(super) async fn ensure_waiting_lines(&mut self, sku: &Sku) -> Result<(), StoreError> {
        match self.products.get_mut(sku) {
            Some(product) if product.needs_waiting_lines() => self.tx.load_waiting_lines(product).await,
            _ => Ok(()),
        }
    }

    /// Loads the newest lines of a batch, as many as `units` covers.
    pub(super) async fn ensure_newest_lines(
        &mut self,
        sku: &Sku,
        batch: &BatchRef,
        units: u32,
    ) -> Result<(), StoreError> {
        match self.products.get_mut(sku) {
            Some(product) if units > 0 => self.tx.load_newest_lines(product, batch, units).await,
            _ => Ok(()),
        }
    }
}

//! One function per command, and one per reaction to an event.
//!
//! A handler loads what the decision needs and calls the domain. A handler that rejects has changed nothing.

use crate::{
    domain::{
        Allocate, Batch, ChangeBatchQuantity, CreateBatch, Deallocate, OfferProgress, OrderId, Rejection, Sku,
    },
    ports::error::StoreError,
};

use super::unit_of_work::UnitOfWork;

/// Why a handler failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandlerError {
    /// A rule rejected the command.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

pub(super) async fn create_batch(uow: &mut UnitOfWork, command: &CreateBatch) -> Result<(), HandlerError> {
    if uow.sku_of_batch(&command.reference).is_some_and(|sku| *sku != command.sku) {
        return Err(Rejection::BatchMismatch(command.reference.clone()).into());
    }
    let batch = Batch::new(command.reference.clone(), command.qty, command.eta);
    uow.product_or_new(&command.sku).add_batch(batch)?;
    allocate_backorders(uow, &command.sku).await
}

pub(super) async fn allocate(uow: &mut UnitOfWork, command: &Allocate) -> Result<(), HandlerError> {
    uow.ensure_first_fit(&command.sku, command.qty).await?;
    uow.product(&command.sku)?.allocate(&command.orderid, command.qty)?;
    Ok(())
}

pub(super) fn deallocate(uow: &mut UnitOfWork, command: &Deallocate) -> Result<(), HandlerError> {
    uow.product(&command.sku)?.deallocate(&command.orderid);
    Ok(())
}

pub(super) async fn change_batch_quantity(
    uow: &mut UnitOfWork,
    command: &ChangeBatchQuantity,
) -> Result<(), HandlerError> {
    let invalid = || Rejection::InvalidBatchref(command.reference.clone());
    let sku = uow.sku_of_batch(&command.reference).ok_or_else(invalid)?.clone();
    let batch = uow.product(&sku)?.batch(&command.reference).ok_or_else(invalid)?;
    let excess = if batch.is_stale(command.revision) { 0 } else { batch.excess(command.qty) };
    uow.ensure_newest_lines(&sku, &command.reference, excess).await?;
    while excess > 0 && uow.product(&sku)?.remove_excess(&command.reference, command.qty) {
        tokio::task::yield_now().await;
    }
    uow.product(&sku)?.change_batch_quantity(&command.reference, command.qty, command.revision)?;
    if excess > 0 {
        return Ok(()); // The events of the removed lines reallocate the stock.
    }
    allocate_backorders(uow, &sku).await
}

/// After a line was removed from its batch: allocates the freed stock to the waiting lines, including this one.
pub(super) async fn reallocate(
    uow: &mut UnitOfWork,
    orderid: &OrderId,
    sku: &Sku,
) -> Result<(), HandlerError> {
    allocate_backorders(uow, sku).await?;
    uow.product(sku)?.emit_if_backordered(orderid);
    Ok(())
}

async fn allocate_backorders(uow: &mut UnitOfWork, sku: &Sku) -> Result<(), HandlerError> {
    uow.ensure_waiting_lines(sku).await?;
    loop {
        match uow.product(sku)?.allocate_backorders() {
            OfferProgress::Done => return Ok(()),
            OfferProgress::Paused => tokio::task::yield_now().await,
            OfferProgress::Missing(search) => uow.search_batches(sku, &search).await?,
        }
    }
}

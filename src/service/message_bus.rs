//! Takes commands through their units of work: seen before? → handler → reactions until none is left → one commit.

use std::{
    collections::{HashSet, VecDeque},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;

use crate::{
    domain::{Command, Event},
    ports::{
        queue::QueueName,
        store::{Footprint, Sight, Store, StoreError, ViewState},
    },
};

use super::{
    decode::Envelope,
    delays::Delays,
    handlers::{self, HandlerError},
    unit_of_work::UnitOfWork,
};

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was handled, and what it changed is committed.
    Handled,
    /// It was handled before; nothing changed.
    Repeat,
    /// It was not handled; nothing changed.
    Failed(Failure),
}

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// A rule of the domain said no.
    #[error("{0}")]
    Rejected(String),
    /// Its message id belongs to a message with another body, which was handled.
    #[error("a message of this id was handled before, with another body")]
    OtherBody,
    /// The store cannot keep its data.
    #[error("{0}")]
    BadData(String),
    /// It took too long, panicked, or the store failed.
    #[error("{0}")]
    Error(String),
}

/// The store is away: nothing is known about the commands, and nothing counts against them.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Outage(pub StoreError);

/// Handles commands, one or many in one unit of work.
#[derive(Clone)]
pub struct MessageBus {
    store: Arc<dyn Store>,
    handler_timeout: Duration,
}

/// Why a unit of work came to nothing.
enum Broken {
    Store(StoreError),
    Handler(Failure),
}

impl From<StoreError> for Broken {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl MessageBus {
    /// A bus over a store; a handler that takes longer than `handler_timeout` has failed.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, handler_timeout: Duration) -> Self {
        Self {
            store,
            handler_timeout,
        }
    }

    /// Handles commands that came from `queue`. Each has its own fate, in the order given.
    ///
    /// # Errors
    /// [`Outage`] if the store is away: whether some of it was committed is unknown, so all of it is to be handled
    /// again; the inbox tells what was done.
    pub async fn handle(&self, queue: QueueName, batch: &[Envelope]) -> Result<Vec<Fate>, Outage> {
        let mut fates = vec![Fate::Repeat; batch.len()];
        let mut due: Vec<usize> = (0..batch.len()).collect();
        while !due.is_empty() {
            // Of several messages of one id only the first may go into a unit of work; the inbox judges the others.
            let mut ids = HashSet::new();
            let (now, later): (Vec<_>, _) = due
                .into_iter()
                .partition(|&i| ids.insert(&batch[i].receipt.message_id));
            let envelopes: Vec<_> = now.iter().map(|&i| &batch[i]).collect();
            for (i, fate) in now
                .into_iter()
                .zip(self.handle_distinct(queue, &envelopes).await?)
            {
                fates[i] = fate;
            }
            due = later;
        }
        Ok(fates)
    }

    /// All in one unit of work; if that breaks, each in its own, so that a failure is the failure of one command.
    async fn handle_distinct(&self, queue: QueueName, batch: &[&Envelope]) -> Result<Vec<Fate>, Outage> {
        match self.handle_together(queue, batch).await {
            Ok(fates) => Ok(fates),
            Err(Broken::Store(error @ StoreError::Unavailable(_))) => Err(Outage(error)),
            Err(broken) if batch.len() == 1 => Ok(vec![Fate::Failed(broken.into())]),
            Err(_) => {
                let mut fates = Vec::with_capacity(batch.len());
                for envelope in batch {
                    fates.extend(Box::pin(self.handle_distinct(queue, &[*envelope])).await?);
                }
                Ok(fates)
            }
        }
    }

    /// Tries again at once, a few times, when another transaction was in the way.
    async fn handle_together(&self, queue: QueueName, batch: &[&Envelope]) -> Result<Vec<Fate>, Broken> {
        let mut delays = Delays::after_conflict();
        loop {
            match self.unit_of_work(queue, batch).await {
                Err(Broken::Store(StoreError::Conflict(reason))) => match delays.next() {
                    Some(delay) => tokio::time::sleep(delay).await,
                    None => return Err(StoreError::Conflict(reason).into()),
                },
                outcome => return outcome,
            }
        }
    }

    async fn unit_of_work(&self, queue: QueueName, batch: &[&Envelope]) -> Result<Vec<Fate>, Broken> {
        let mut uow = UnitOfWork::begin(&*self.store).await?;
        match self.fill(&mut uow, queue, batch).await {
            Ok(fates) => {
                uow.commit().await?;
                Ok(fates)
            }
            Err(broken) => {
                uow.rollback().await;
                Err(broken)
            }
        }
    }

    async fn fill(
        &self,
        uow: &mut UnitOfWork,
        queue: QueueName,
        batch: &[&Envelope],
    ) -> Result<Vec<Fate>, Broken> {
        let receipts: Vec<_> = batch.iter().map(|envelope| envelope.receipt.clone()).collect();
        let sights = uow.first_sights(queue.as_str(), &receipts).await?;
        let mut footprint = Footprint::default();
        for (envelope, _) in batch
            .iter()
            .zip(&sights)
            .filter(|(_, sight)| **sight == Sight::First)
        {
            footprint.cover(&envelope.command);
        }
        uow.load(&footprint).await?;
        let mut fates = Vec::with_capacity(batch.len());
        for (envelope, sight) in batch.iter().zip(sights) {
            fates.push(match sight {
                Sight::First => self.handle_one(uow, envelope).await?,
                Sight::Repeat => Fate::Repeat,
                Sight::OtherBody => Fate::Failed(Failure::OtherBody),
            });
        }
        Ok(fates)
    }

    /// A rejection is this command's own affair; a timeout or a panic breaks the unit of work.
    async fn handle_one(&self, uow: &mut UnitOfWork, envelope: &Envelope) -> Result<Fate, Broken> {
        let guarded = AssertUnwindSafe(until_none_is_left(uow, envelope)).catch_unwind();
        match tokio::time::timeout(self.handler_timeout, guarded).await {
            Ok(Ok(Ok(()))) => Ok(Fate::Handled),
            Ok(Ok(Err(HandlerError::Store(error)))) => Err(error.into()),
            Ok(Ok(Err(HandlerError::Rejected(rejection)))) => {
                uow.leave_unhandled(&envelope.receipt);
                Ok(Fate::Failed(Failure::Rejected(rejection.to_string())))
            }
            Ok(Err(panic)) => Err(Broken::Handler(Failure::Error(format!(
                "panicked: {}",
                panic_text(&*panic)
            )))),
            Err(_) => {
                let limit = humantime::format_duration(self.handler_timeout);
                Err(Broken::Handler(Failure::Error(format!(
                    "took longer than {limit} (worker.handler_timeout)"
                ))))
            }
        }
    }
}

/// The table of contents: every command and the one handler it has, every event and the reactions to it.
async fn until_none_is_left(uow: &mut UnitOfWork, envelope: &Envelope) -> Result<(), HandlerError> {
    match &envelope.command {
        Command::CreateBatch(command) => handlers::create_batch(uow, command).await?,
        Command::Allocate(command) => handlers::allocate(uow, command)?,
        Command::Deallocate(command) => handlers::deallocate(uow, command)?,
        Command::ChangeBatchQuantity(command) => handlers::change_batch_quantity(uow, command).await?,
    }
    let mut events = VecDeque::from(uow.collect_events(envelope));
    while let Some(recorded) = events.pop_front() {
        match recorded.event {
            Event::Allocated {
                orderid,
                sku,
                qty,
                batchref,
            } => {
                uow.show(orderid, sku, ViewState::Allocated(qty, batchref));
            }
            Event::OutOfStock { orderid, sku, qty } => uow.show(orderid, sku, ViewState::Backordered(qty)),
            Event::BackorderCancelled { orderid, sku } => uow.show(orderid, sku, ViewState::Gone),
            Event::Deallocated { orderid, sku, .. } => {
                uow.show(orderid.clone(), sku.clone(), ViewState::Gone);
                handlers::reallocate(uow, &orderid, &sku).await?;
            }
        }
        events.extend(uow.collect_events(envelope));
    }
    Ok(())
}

impl From<Broken> for Failure {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Handler(failure) => failure,
            Broken::Store(StoreError::BadData(error)) => Self::BadData(error),
            Broken::Store(error) => Self::Error(error.to_string()),
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a word")
}

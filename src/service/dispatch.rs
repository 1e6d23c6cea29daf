//! Every command with its handler, and every event with the reactions to it.

use std::{
    collections::VecDeque,
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;

use crate::{
    domain::{Command, Event},
    faults,
    ports::store::ReadModelState,
};

use super::{
    envelope::Envelope,
    failure::Failure,
    handlers::{self, HandlerError},
    outcome::Step,
    unit_of_work::{HandlingFailure, UnitOfWork},
};

/// Reactions after which other work continues: a command may cause very many.
const REACTIONS_AT_ONCE: usize = 500;

/// Runs the handler of a command and all reactions, at most for `timeout`. A rejected command has changed nothing.
///
/// # Errors
/// The unit of work is incomplete and must be rolled back.
pub(super) async fn run_handler(
    uow: &mut UnitOfWork,
    command: &Command,
    envelope: &Envelope,
    timeout: Duration,
) -> Result<Step, HandlingFailure> {
    let begin = Instant::now();
    let failed = |failure| Err(HandlingFailure { failure, took: begin.elapsed() });
    let guarded = AssertUnwindSafe(dispatch(uow, command, envelope)).catch_unwind();
    match tokio::time::timeout(timeout, guarded).await {
        Ok(Ok(Ok(()))) => Ok(Step::Handled(begin.elapsed())),
        Ok(Ok(Err(HandlerError::Rejected(rejection)))) => Ok(Step::Failed(rejection.into(), begin.elapsed())),
        Ok(Ok(Err(HandlerError::Store(error)))) => failed(error.into()),
        Ok(Err(panic)) => failed(Failure::Panicked(panic_text(&*panic).to_owned())),
        Err(_) => failed(Failure::TimedOut(timeout)),
    }
}

async fn dispatch(uow: &mut UnitOfWork, command: &Command, envelope: &Envelope) -> Result<(), HandlerError> {
    match command {
        Command::CreateBatch(command) => handlers::create_batch(uow, command).await?,
        Command::Allocate(command) => handlers::allocate(uow, command).await?,
        Command::Deallocate(command) => handlers::deallocate(uow, command)?,
        Command::ChangeBatchQuantity(command) => handlers::change_batch_quantity(uow, command).await?,
    }
    faults::mid_handler(&envelope.key.message_id);
    let mut events = VecDeque::from(uow.collect_events());
    let mut reactions = 0;
    while let Some(recorded) = events.pop_front() {
        reactions += 1;
        if reactions % REACTIONS_AT_ONCE == 0 {
            tokio::task::yield_now().await;
        }
        uow.publish(&recorded, envelope);
        match recorded.event {
            Event::Allocated { orderid, sku, qty, batchref } => {
                uow.show(orderid, sku, ReadModelState::Allocated(qty, batchref));
            }
            Event::OutOfStock { orderid, sku, qty } => {
                uow.show(orderid, sku, ReadModelState::Backordered(qty));
            }
            Event::BackorderCancelled { orderid, sku } => uow.show(orderid, sku, ReadModelState::Removed),
            Event::Deallocated { orderid, sku, .. } => {
                uow.show(orderid.clone(), sku.clone(), ReadModelState::Removed);
                handlers::reallocate(uow, &orderid, &sku).await?;
            }
        }
        events.extend(uow.collect_events());
    }
    Ok(())
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

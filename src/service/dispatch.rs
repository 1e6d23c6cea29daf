//! The table of contents: every command and the one handler it has, every event and the reactions to it.

use std::{
    collections::VecDeque,
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;

use crate::{
    crash_points::{self, CrashPoint},
    domain::{Command, Event, Rejection},
    ports::{queue::QueueName, store::ReadModelState},
};

use super::{
    decode::{DecodeError, Envelope},
    failure::Failure,
    handlers::{self, HandlerError},
    unit_of_work::UnitOfWork,
};

/// Why a unit of work failed.
pub(super) struct UnitOfWorkError {
    pub(super) failure: Failure,
    /// How long the command that broke it took, if it was one.
    pub(super) took: Duration,
}

impl<T: Into<Failure>> From<T> for UnitOfWorkError {
    fn from(failure: T) -> Self {
        Self { failure: failure.into(), took: Duration::ZERO }
    }
}

/// Runs a command's handler and all reactions, within `at_most`. A rejection has changed nothing.
///
/// # Errors
/// Anything but a rejection leaves the unit of work half done: it must be rolled back.
pub(super) async fn run_handler(
    uow: &mut UnitOfWork,
    envelope: &Envelope,
    at_most: Duration,
) -> Result<Result<(), Rejection>, UnitOfWorkError> {
    let begin = Instant::now();
    let broken = |failure| UnitOfWorkError { failure, took: begin.elapsed() };
    let guarded = AssertUnwindSafe(dispatch(uow, envelope)).catch_unwind();
    match tokio::time::timeout(at_most, guarded).await {
        Ok(Ok(Ok(()))) => Ok(Ok(())),
        Ok(Ok(Err(HandlerError::Rejected(rejection)))) => Ok(Err(rejection)),
        Ok(Ok(Err(HandlerError::Store(error)))) => Err(broken(error.into())),
        Ok(Err(panic)) => Err(broken(Failure::Panicked(panic_text(&*panic).to_owned()))),
        Err(_) => Err(broken(Failure::TimedOut(at_most))),
    }
}

async fn dispatch(uow: &mut UnitOfWork, envelope: &Envelope) -> Result<(), HandlerError> {
    match &envelope.command {
        Command::CreateBatch(command) => handlers::create_batch(uow, command).await?,
        Command::Allocate(command) => handlers::allocate(uow, command)?,
        Command::Deallocate(command) => handlers::deallocate(uow, command)?,
        Command::ChangeBatchQuantity(command) => handlers::change_batch_quantity(uow, command).await?,
        Command::NotifyOutOfStock(_) => {} // Its mail is all there is to do.
    }
    crash_points::here_with(CrashPoint::WorkerMidHandler, &envelope.key.message_id);
    let mut events = VecDeque::from(uow.collect_events(envelope));
    while let Some(recorded) = events.pop_front() {
        match recorded.event {
            Event::Allocated { orderid, sku, qty, batchref } => {
                uow.show(orderid, sku, ReadModelState::Allocated(qty, batchref));
            }
            Event::OutOfStock { orderid, sku, qty } => {
                uow.show(orderid, sku, ReadModelState::Backordered(qty))
            }
            Event::BackorderCancelled { orderid, sku } => uow.show(orderid, sku, ReadModelState::Removed),
            Event::Deallocated { orderid, sku, .. } => {
                uow.show(orderid.clone(), sku.clone(), ReadModelState::Removed);
                handlers::reallocate(uow, &orderid, &sku).await?;
            }
        }
        events.extend(uow.collect_events(envelope));
    }
    Ok(())
}

/// Notifications have a queue of their own, so that no command waits for a mail server.
pub(super) fn check_queue(queue: QueueName, command: &Command) -> Option<DecodeError> {
    let is_notification = matches!(command, Command::NotifyOutOfStock(_));
    let (name, queue_name) = (command.name(), queue.as_str());
    (is_notification != (queue == QueueName::Notifications))
        .then(|| DecodeError::UnknownCommand(format!("{name} does not belong into the queue {queue_name}")))
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

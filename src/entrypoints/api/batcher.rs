//! Combines requests: commands that wait at the same time share a unit of work, like messages.

use std::sync::Arc;

use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    task::JoinSet,
};
use tracing::error;

use crate::{
    ports::{answered::Answered, observer::Observer, queue::QueueName},
    service::{
        availability::AvailabilityLog,
        batch_handler::{BatchHandler, HandleError},
        outcome::CommandOutcome,
        received::ReceivedMessage,
        reporting::report_unanswered,
    },
};

use super::super::{
    partition::partition_of,
    watchdog::{PartitionStatus, Watchdog},
};

/// Passes commands to units of work, and their outcomes to the requests. Its tasks end when it is dropped.
pub(super) struct CommandBatcher {
    orders: Vec<mpsc::Sender<PendingRequest>>,
    stock: Vec<mpsc::Sender<PendingRequest>>,
}

/// How commands are handled.
pub(super) struct BatcherOptions {
    pub(super) handler: Arc<dyn BatchHandler>,
    /// The number of tasks per queue.
    pub(super) tasks: usize,
    /// The largest number of commands in a batch.
    pub(super) max_batch: usize,
    /// The number of commands per task that may wait.
    pub(super) max_waiting: usize,
    pub(super) watchdog: Watchdog,
    pub(super) database: Arc<AvailabilityLog>,
    pub(super) observer: Arc<dyn Observer>,
}

struct PendingRequest {
    received: ReceivedMessage,
    answer: oneshot::Sender<Result<CommandOutcome, BatcherError>>,
}

/// Why a command has no outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BatcherError {
    /// Too many commands wait; this one was not begun.
    Overloaded,
    /// A server is unavailable. Whether the command was handled is unknown.
    Unavailable,
    /// A defect of this program. Whether the command was handled is unknown.
    MissingOutcome,
}

impl CommandBatcher {
    /// Starts the tasks.
    pub(super) fn start(options: &BatcherOptions) -> (Self, JoinSet<()>) {
        let mut running = JoinSet::new();
        let mut start = |queue: QueueName| {
            let tasks = (0..options.tasks).map(|_| {
                let (sender, requests) = mpsc::channel(options.max_waiting);
                let task = BatchTask {
                    queue,
                    handler: options.handler.clone(),
                    max_batch: options.max_batch,
                    database: options.database.clone(),
                    observer: options.observer.clone(),
                    status: options.watchdog.register(queue.as_str()),
                };
                running.spawn(async move { task.run(requests).await });
                sender
            });
            tasks.collect()
        };
        (Self { orders: start(QueueName::Orders), stock: start(QueueName::Stock) }, running)
    }

    /// Handles a command as if it had come from `queue`.
    pub(super) async fn handle(
        &self,
        queue: QueueName,
        received: ReceivedMessage,
    ) -> Result<CommandOutcome, BatcherError> {
        let (answer, answered) = oneshot::channel();
        let tasks = if queue == QueueName::Stock { &self.stock } else { &self.orders };
        let task = &tasks[partition_of(&received, tasks.len())];
        task.try_send(PendingRequest { received, answer }).map_err(|error| match error {
            TrySendError::Full(_) => BatcherError::Overloaded,
            TrySendError::Closed(_) => BatcherError::Unavailable,
        })?;
        answered.await.unwrap_or(Err(BatcherError::Unavailable))
    }
}

struct BatchTask {
    queue: QueueName,
    handler: Arc<dyn BatchHandler>,
    max_batch: usize,
    database: Arc<AvailabilityLog>,
    observer: Arc<dyn Observer>,
    status: Arc<PartitionStatus>,
}

impl BatchTask {
    async fn run(&self, mut requests: mpsc::Receiver<PendingRequest>) {
        let mut waiting = Vec::with_capacity(self.max_batch);
        while requests.recv_many(&mut waiting, self.max_batch).await > 0 {
            self.status.busy();
            // A client that has disconnected can send the command again.
            let batch = waiting.drain(..).filter(|request| !request.answer.is_closed()).collect();
            self.handle(batch).await;
            self.status.idle();
        }
    }

    /// Answers every request, with its own outcome or with the reason why it has none.
    async fn handle(&self, mut batch: Vec<PendingRequest>) {
        let mut received: Vec<_> = batch.iter_mut().map(|request| &mut request.received).collect();
        let handled = self.handler.handle(self.queue, &mut received).await;
        let (answered, unanswered) =
            Answered::split(batch, |request: &mut PendingRequest| request.received.take_outcome());
        if answered.iter().any(|(_, outcome)| outcome.is_committed()) {
            self.database.up();
        }
        let missing = self.report(handled, unanswered.len());
        for (request, outcome) in answered {
            let _ = request.answer.send(Ok(outcome));
        }
        for request in unanswered {
            report_unanswered(&*self.observer, self.queue, &request.received);
            let _ = request.answer.send(Err(missing));
        }
    }

    /// Logs what happened, and returns the error for requests without an outcome.
    fn report(&self, handled: Result<(), HandleError>, unanswered: usize) -> BatcherError {
        match handled {
            Err(HandleError::Unavailable(error)) => {
                self.database.down(&error);
                return BatcherError::Unavailable;
            }
            Err(HandleError::Missing(missing)) => {
                error!(queue = self.queue.as_str(), %missing, "a defect of this program: commands have no outcome");
            }
            Ok(()) if unanswered > 0 => {
                error!(
                    queue = self.queue.as_str(),
                    unanswered, "a defect of this program: commands have no outcome"
                );
            }
            Ok(()) => {}
        }
        BatcherError::MissingOutcome
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_trait::async_trait;
    use futures_util::poll;
    use serde_json::json;

    use super::*;
    use crate::{
        adapters::memory::MemoryStore,
        domain::Sku,
        entrypoints::watchdog::Watchdog,
        ports::{answered::MissingAnswers, observer::NoObserver, queue::Message},
        service::{
            availability::ServerUnavailable, backoff::RetryPolicy, decode::Limits, message_bus::MessageBus,
            policy::FailurePolicy,
        },
    };

    fn received(reference: &str) -> ReceivedMessage {
        let body = json!({ "ref": reference, "sku": "LAMP", "qty": 1, "eta": null });
        let message = Message {
            kind: "create_batch".into(),
            message_id: Some(reference.into()),
            body: body.to_string().into_bytes().into(),
            ..Message::default()
        };
        let limits = Limits { body_bytes: 1000, header_bytes: 1000 };
        ReceivedMessage::read_awaited(QueueName::Stock, message, limits)
    }

    fn task(handler: impl BatchHandler + 'static) -> BatchTask {
        BatchTask {
            queue: QueueName::Stock,
            handler: Arc::new(handler),
            max_batch: 10,
            database: Arc::new(AvailabilityLog::of("database")),
            observer: Arc::new(NoObserver),
            status: Watchdog::default().register("stock"),
        }
    }

    #[tokio::test]
    async fn a_command_without_room_was_not_begun() {
        let (sender, requests) = mpsc::channel(1);
        let batcher = CommandBatcher { orders: Vec::new(), stock: vec![sender] };
        let mut first = std::pin::pin!(batcher.handle(QueueName::Stock, received("b-1")));
        assert!(poll!(&mut first).is_pending());
        let second = batcher.handle(QueueName::Stock, received("b-2")).await;
        assert_eq!(second.map(drop), Err(BatcherError::Overloaded));
        drop(requests);
        assert_eq!(first.await.map(drop), Err(BatcherError::Unavailable));
        let third = batcher.handle(QueueName::Stock, received("b-3")).await;
        assert_eq!(third.map(drop), Err(BatcherError::Unavailable));
    }

    #[tokio::test]
    async fn the_command_of_a_disconnected_client_is_not_begun() {
        let store = MemoryStore::default();
        let policy = FailurePolicy {
            handler_timeout: Duration::from_secs(30),
            retry: RetryPolicy::default(),
            host: "test".into(),
        };
        let (sender, requests) = mpsc::channel(2);
        let (answer, _) = oneshot::channel();
        assert!(sender.send(PendingRequest { received: received("b-1"), answer }).await.is_ok());
        let (answer, answered) = oneshot::channel();
        assert!(sender.send(PendingRequest { received: received("b-2"), answer }).await.is_ok());
        drop(sender);
        task(MessageBus::new(Arc::new(store.clone()), policy, Arc::new(NoObserver))).run(requests).await;
        assert!(matches!(answered.await, Ok(Ok(CommandOutcome::Handled))));
        let product = store.state().await.product(&Sku::new("LAMP").unwrap()).unwrap();
        let batches: Vec<_> = product.batches().iter().map(|batch| batch.reference.to_string()).collect();
        assert_eq!(batches, ["b-2"]);
    }

    /// Gives no message an outcome.
    struct Silent(Option<MissingAnswers>);

    #[async_trait]
    impl BatchHandler for Silent {
        async fn handle(&self, _: QueueName, _: &mut [&mut ReceivedMessage]) -> Result<(), HandleError> {
            self.0.map_or(Ok(()), |missing| Err(missing.into()))
        }

        async fn probe(&self) -> Result<(), ServerUnavailable> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_request_without_an_outcome_gets_an_error() {
        for handled in [None, Some(MissingAnswers::NONE)] {
            let (answer, answered) = oneshot::channel();
            task(Silent(handled)).handle(vec![PendingRequest { received: received("b-1"), answer }]).await;
            let answer = answered.await.unwrap();
            assert_eq!(answer.map(drop), Err(BatcherError::MissingOutcome), "{handled:?}");
        }
    }
}

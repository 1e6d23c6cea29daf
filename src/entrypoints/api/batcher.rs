//! Where requests become commands: those that wait at the same time go into one unit of work, as messages do.

use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    task::JoinSet,
};

use crate::{
    ports::queue::QueueName,
    service::{
        availability::AvailabilityLog,
        message_bus::{CommandOutcome, Interrupted, MessageBus},
        received::ReceivedMessage,
    },
};

use super::{
    super::{consumer::partition_of, watchdog::LaneStatus},
    Api, CONNECTIONS,
};

/// Commands that may wait for their unit of work, per lane.
const WAITING: usize = CONNECTIONS;

/// Hands commands to units of work and their fates back. Its tasks end when it is dropped.
pub(super) struct CommandBatcher {
    orders: Vec<mpsc::Sender<PendingRequest>>,
    stock: Vec<mpsc::Sender<PendingRequest>>,
}

struct PendingRequest {
    received: ReceivedMessage,
    answer: oneshot::Sender<CommandOutcome>,
}

/// Why a command has no fate.
#[derive(Debug)]
pub(super) enum BatcherError {
    /// Too many wait already; this one was not begun.
    Overloaded,
    /// A server is away. Whether the command was handled is unknown.
    Unavailable,
}

impl CommandBatcher {
    /// Opens it, with the tasks that do its work.
    pub(super) fn open(api: &Api) -> (Self, JoinSet<()>) {
        let mut at_work = JoinSet::new();
        let mut tasks = |queue: QueueName| {
            let tasks = (0..api.tasks).map(|_| {
                let (sender, asked) = mpsc::channel(WAITING);
                let lane = BatchTask { queue, bus: api.bus.clone(), max_batch: api.max_batch };
                let (database, lane_status) = (api.database.clone(), api.watchdog.lane(queue.as_str()));
                at_work.spawn(async move { lane.work(asked, &database, &lane_status).await });
                sender
            });
            tasks.collect()
        };
        (Self { orders: tasks(QueueName::Orders), stock: tasks(QueueName::Stock) }, at_work)
    }

    /// Has a command handled, as if it had come from `queue`.
    pub(super) async fn ask(
        &self,
        queue: QueueName,
        received: ReceivedMessage,
    ) -> Result<CommandOutcome, BatcherError> {
        let (answer, answered) = oneshot::channel();
        let tasks = if queue == QueueName::Stock { &self.stock } else { &self.orders };
        let lane = &tasks[partition_of(&received, tasks.len())];
        lane.try_send(PendingRequest { received, answer }).map_err(|error| match error {
            TrySendError::Full(_) => BatcherError::Overloaded,
            TrySendError::Closed(_) => BatcherError::Unavailable,
        })?;
        answered.await.map_err(|_| BatcherError::Unavailable)
    }
}

struct BatchTask {
    queue: QueueName,
    bus: MessageBus,
    max_batch: usize,
}

impl BatchTask {
    async fn work(
        &self,
        mut asked: mpsc::Receiver<PendingRequest>,
        database: &AvailabilityLog,
        lane_status: &LaneStatus,
    ) {
        let mut batch = Vec::with_capacity(self.max_batch);
        while asked.recv_many(&mut batch, self.max_batch).await > 0 {
            lane_status.busy();
            // Who has hung up meanwhile will ask again, if they still want to know.
            let waiting = batch.drain(..).filter(|asked| !asked.answer.is_closed());
            let (received, answers): (Vec<_>, Vec<_>) =
                waiting.map(|asked| (asked.received, asked.answer)).unzip();
            let (outcomes, away) = match self.bus.handle(self.queue, &received).await {
                Ok(outcomes) => (outcomes, None),
                Err(Interrupted { done, away }) => (done, Some(away)),
            };
            match away {
                Some(away) => database.down(&away),
                None => database.up(),
            }
            // The senders of the others are dropped, which answers 503.
            for (answer, outcome) in answers.into_iter().zip(outcomes) {
                let _ = answer.send(outcome);
            }
            lane_status.idle();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use futures_util::poll;
    use serde_json::json;

    use super::*;
    use crate::{
        adapters::memory::{MemoryStore, RecordingNotifier},
        domain::Sku,
        entrypoints::watchdog::Watchdog,
        ports::queue::Message,
        service::{backoff::RetryPolicy, decode::Limits, message_bus::FailurePolicy},
    };

    fn received(reference: &str) -> ReceivedMessage {
        let body = json!({ "ref": reference, "sku": "LAMP", "qty": 1, "eta": null });
        let message = Message {
            kind: "create_batch".into(),
            message_id: Some(reference.into()),
            body: body.to_string().into_bytes(),
            ..Message::default()
        };
        ReceivedMessage::read_awaited(message, Limits { body_bytes: 1000, header_bytes: 1000 })
    }

    #[tokio::test]
    async fn a_command_that_finds_no_place_was_not_begun() {
        let (sender, asked) = mpsc::channel(1);
        let desk = CommandBatcher { orders: Vec::new(), stock: vec![sender] };
        let mut first = std::pin::pin!(desk.ask(QueueName::Stock, received("b-1")));
        assert!(poll!(&mut first).is_pending());
        let second = desk.ask(QueueName::Stock, received("b-2")).await;
        assert!(matches!(second, Err(BatcherError::Overloaded)), "{second:?}");
        drop(asked);
        for outcome in [first.await, desk.ask(QueueName::Stock, received("b-3")).await] {
            assert!(matches!(outcome, Err(BatcherError::Unavailable)), "{outcome:?}");
        }
    }

    #[tokio::test]
    async fn a_command_whose_client_has_hung_up_is_not_begun() {
        let store = MemoryStore::default();
        let policy = FailurePolicy {
            handler_timeout: Duration::from_secs(30),
            retry: RetryPolicy::default(),
            host: "test".into(),
        };
        let bus = MessageBus::new(Arc::new(store.clone()), Arc::new(RecordingNotifier::default()), policy);
        let (sender, asked) = mpsc::channel(2);
        let (answer, _) = oneshot::channel();
        assert!(sender.send(PendingRequest { received: received("b-1"), answer }).await.is_ok());
        let (answer, answered) = oneshot::channel();
        assert!(sender.send(PendingRequest { received: received("b-2"), answer }).await.is_ok());
        drop(sender);
        let lane = BatchTask { queue: QueueName::Stock, bus, max_batch: 10 };
        lane.work(asked, &AvailabilityLog::of("database"), &Watchdog::default().lane("stock")).await;
        assert!(matches!(answered.await, Ok(CommandOutcome::Handled)));
        let product = store.state().await.product(&Sku::new("LAMP").unwrap()).unwrap();
        let batches: Vec<_> = product.batches().iter().map(|batch| batch.reference.to_string()).collect();
        assert_eq!(batches, ["b-2"]);
    }
}

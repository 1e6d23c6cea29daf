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
        incoming::Incoming,
        message_bus::{Fate, Interrupted, MessageBus},
        outage::Outage,
    },
};

use super::{
    super::{vitals::Pulse, worker::lane_of},
    Api, CONNECTIONS,
};

/// Commands that may wait for their unit of work, per lane.
const WAITING: usize = CONNECTIONS;

/// Hands commands to units of work and their fates back. Its tasks end when it is dropped.
pub(super) struct Desk {
    orders: Vec<mpsc::Sender<Asked>>,
    stock: Vec<mpsc::Sender<Asked>>,
}

struct Asked {
    incoming: Incoming,
    answer: oneshot::Sender<Fate>,
}

/// Why a command has no fate.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotNow {
    /// Too many wait already; this one was not begun.
    Crowded,
    /// A server is away. Whether the command was handled is unknown.
    Away,
}

impl Desk {
    /// Opens it, with the tasks that do its work.
    pub(super) fn open(api: &Api) -> (Self, JoinSet<()>) {
        let mut at_work = JoinSet::new();
        let mut lanes = |queue: QueueName| {
            let lanes = (0..api.lanes).map(|_| {
                let (sender, asked) = mpsc::channel(WAITING);
                let lane = Lane { queue, bus: api.bus.clone(), max_batch: api.max_batch };
                let (database, pulse) = (api.database.clone(), api.vitals.lane(queue.as_str()));
                at_work.spawn(async move { lane.work(asked, &database, &pulse).await });
                sender
            });
            lanes.collect()
        };
        (Self { orders: lanes(QueueName::Orders), stock: lanes(QueueName::Stock) }, at_work)
    }

    /// Has a command handled, as if it had come from `queue`.
    pub(super) async fn ask(&self, queue: QueueName, incoming: Incoming) -> Result<Fate, NotNow> {
        let (answer, answered) = oneshot::channel();
        let lanes = if queue == QueueName::Stock { &self.stock } else { &self.orders };
        let lane = &lanes[lane_of(&incoming, lanes.len())];
        lane.try_send(Asked { incoming, answer }).map_err(|error| match error {
            TrySendError::Full(_) => NotNow::Crowded,
            TrySendError::Closed(_) => NotNow::Away,
        })?;
        answered.await.map_err(|_| NotNow::Away)
    }
}

struct Lane {
    queue: QueueName,
    bus: MessageBus,
    max_batch: usize,
}

impl Lane {
    async fn work(&self, mut asked: mpsc::Receiver<Asked>, database: &Outage, pulse: &Pulse) {
        let mut batch = Vec::with_capacity(self.max_batch);
        while asked.recv_many(&mut batch, self.max_batch).await > 0 {
            pulse.busy();
            // Who has hung up meanwhile will ask again, if they still want to know.
            let waiting = batch.drain(..).filter(|asked| !asked.answer.is_closed());
            let (incoming, answers): (Vec<_>, Vec<_>) =
                waiting.map(|asked| (asked.incoming, asked.answer)).unzip();
            let (fates, away) = match self.bus.handle(self.queue, &incoming).await {
                Ok(fates) => (fates, None),
                Err(Interrupted { done, away }) => (done, Some(away)),
            };
            match away {
                Some(away) => database.begins(&away),
                None => database.ends(),
            }
            // The others get no answer, and that is one: their senders are dropped.
            for (answer, fate) in answers.into_iter().zip(fates) {
                let _ = answer.send(fate);
            }
            pulse.idle();
        }
    }
}

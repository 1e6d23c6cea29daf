//! The worker: takes what is ready in a queue, has the bus handle it, and settles it after the commit.
//!
//! A subscription feeds a few lanes. Commands about one thing go through one lane, so that they stay in order and
//! never wait for each other's locks; each lane takes all that is ready, up to a limit, into one unit of work.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    domain::Command,
    ports::queue::{BrokerError, Delivery, QueueName, Queues, Settlement, Settler, Subscription},
    service::{
        decode::{Envelope, Undecodable, decode},
        delays::Delays,
        message_bus::{Fate, MessageBus},
        outage::Outage,
    },
};

/// Consumes one queue.
#[derive(Clone)]
pub struct Worker {
    /// Which queue.
    pub queue: QueueName,
    /// Where it is.
    pub queues: Arc<dyn Queues>,
    /// Who handles its commands.
    pub bus: MessageBus,
    /// Units of work in flight at most.
    pub lanes: usize,
    /// Commands in one unit of work at most.
    pub max_batch: usize,
    /// What is told when the database is away.
    pub database: Arc<Outage>,
    /// What is told when the broker is away.
    pub broker: Arc<Outage>,
}

/// A delivery, read.
struct Task {
    tag: u64,
    message_id: Option<String>,
    decoded: Result<Envelope, Undecodable>,
}

impl Worker {
    /// Works until `stop`; then what is in hand is finished and the rest is handed back. A lost subscription is made
    /// anew, for ever.
    pub async fn run(&self, stop: &CancellationToken) {
        let mut delays = Delays::during_outage();
        while let Some(subscribed) = stop.run_until_cancelled(self.queues.subscribe(self.queue)).await {
            let lost = match subscribed {
                Ok(subscription) => {
                    self.broker.ends();
                    delays = Delays::during_outage();
                    self.serve(subscription, stop).await
                }
                Err(error) => Err(error),
            };
            if let Err(error) = lost {
                self.broker.begins(&error);
                let delay = delays.next().unwrap_or_default();
                stop.run_until_cancelled(tokio::time::sleep(delay)).await;
            }
        }
    }

    async fn serve(
        &self,
        mut subscription: Box<dyn Subscription>,
        stop: &CancellationToken,
    ) -> Result<(), BrokerError> {
        info!(queue = self.queue.as_str(), "consuming");
        let halt = stop.child_token();
        let mut running = JoinSet::new();
        let lanes: Vec<_> = (0..self.lanes)
            .map(|_| {
                let (sender, tasks) = mpsc::unbounded_channel();
                let (worker, settler, halt) = (self.clone(), subscription.settler(), halt.clone());
                running.spawn(async move { worker.lane(tasks, &*settler, &halt).await });
                sender
            })
            .collect();
        let ended = loop {
            match stop.run_until_cancelled(subscription.next()).await {
                Some(Ok(delivery)) => {
                    let task = read(delivery);
                    // A lane is gone only when it panicked; what it held is then redelivered, to others.
                    let _ = lanes[lane_of(&task, lanes.len())].send(task);
                }
                Some(Err(error)) => break Err(error),
                None => break Ok(()),
            }
        };
        halt.cancel();
        drop(lanes);
        while running.join_next().await.is_some() {}
        subscription.close().await;
        ended
    }

    async fn lane(
        &self,
        mut tasks: mpsc::UnboundedReceiver<Task>,
        settler: &dyn Settler,
        halt: &CancellationToken,
    ) {
        let mut batch = Vec::with_capacity(self.max_batch);
        loop {
            batch.clear();
            // What is in hand when the halt comes is finished; what was not begun goes back to the queue.
            if tasks.recv_many(&mut batch, self.max_batch).await == 0
                || halt.is_cancelled()
                || settler.is_over()
            {
                return;
            }
            let Some(settlements) = self.handle(&batch, halt).await else {
                return;
            };
            settler.settle(&settlements).await;
        }
    }

    /// How each delivery is to be settled; none if the database is away and we are to stop.
    async fn handle(&self, batch: &[Task], halt: &CancellationToken) -> Option<Vec<(u64, Settlement)>> {
        let envelopes: Vec<_> = batch
            .iter()
            .filter_map(|task| task.decoded.as_ref().ok().cloned())
            .collect();
        let mut fates = self.fates(&envelopes, halt).await?.into_iter();
        let settlements = batch.iter().map(|task| {
            let settlement = match &task.decoded {
                Ok(_) => self.settlement(task, fates.next()),
                Err(error) => self.refuse(task, error),
            };
            (task.tag, settlement)
        });
        Some(settlements.collect())
    }

    /// Holds what it has while the database is away, and goes on by itself when it is back.
    async fn fates(&self, envelopes: &[Envelope], halt: &CancellationToken) -> Option<Vec<Fate>> {
        let mut delays = Delays::during_outage();
        loop {
            match self.bus.handle(self.queue, envelopes).await {
                Ok(fates) => {
                    self.database.ends();
                    return Some(fates);
                }
                Err(outage) => {
                    self.database.begins(&outage);
                    let delay = delays.next().unwrap_or_default();
                    halt.run_until_cancelled(tokio::time::sleep(delay)).await?;
                }
            }
        }
    }

    fn settlement(&self, task: &Task, fate: Option<Fate>) -> Settlement {
        match fate {
            Some(Fate::Failed(failure)) => self.refuse(task, &failure),
            Some(Fate::Repeat) => {
                debug!(
                    message_id = task.message_id,
                    queue = self.queue.as_str(),
                    "handled before"
                );
                Settlement::Done
            }
            Some(Fate::Handled) | None => Settlement::Done,
        }
    }

    fn refuse(&self, task: &Task, error: &dyn std::fmt::Display) -> Settlement {
        warn!(message_id = task.message_id, queue = self.queue.as_str(), %error, "a command was not handled");
        Settlement::Refused
    }
}

fn read(delivery: Delivery) -> Task {
    let decoded = decode(&delivery.message);
    Task {
        tag: delivery.tag,
        message_id: delivery.message.message_id,
        decoded,
    }
}

/// Lines of one SKU share a lane, and so do the creation and the changes of one batch.
fn lane_of(task: &Task, lanes: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    match task.decoded.as_ref().map(|envelope| &envelope.command) {
        Ok(Command::Allocate(command)) => command.sku.hash(&mut hasher),
        Ok(Command::Deallocate(command)) => command.sku.hash(&mut hasher),
        Ok(Command::CreateBatch(command)) => command.reference.hash(&mut hasher),
        Ok(Command::ChangeBatchQuantity(command)) => command.reference.hash(&mut hasher),
        Err(_) => {}
    }
    usize::try_from(hasher.finish() % lanes as u64).unwrap_or_default()
}

//! The worker: takes what is ready in a queue, has the bus handle it, and settles it after the commit.
//!
//! A subscription feeds a few lanes. Commands about one thing go through one lane, so that they stay in order and
//! never wait for each other's locks; each lane takes all that is ready, up to a limit, into one unit of work.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    crash_points::{self, CrashPoint, PlantedBug},
    domain::Command,
    ports::{
        ledger::Next,
        queue::{BrokerError, Pace, QueueName, Queues, Settler, Stage, Subscription},
    },
    service::{
        decode::Limits,
        delays::Delays,
        incoming::Incoming,
        message_bus::{Fate, MessageBus},
        outage::{Away, Outage},
        unit_of_work::text,
        verdict::Failure,
    },
};

use super::vitals::{Pulse, Vitals};

/// A subscription that is lost sooner may have been broken by what it was handed.
const SOON: Duration = Duration::from_secs(1);
/// So many deliveries go well one by one before they are taken at full pace again.
const TRIED_ONE_BY_ONE: usize = 20;

/// Consumes one queue.
#[derive(Clone)]
pub struct Worker {
    /// Which queue.
    pub queue: QueueName,
    /// Its work, or what the broker put aside from it.
    pub stage: Stage,
    /// What is not even read.
    pub limits: Limits,
    /// Where it is.
    pub queues: Arc<dyn Queues>,
    /// Who handles its commands.
    pub bus: MessageBus,
    /// Units of work in flight at most.
    pub lanes: usize,
    /// Commands in one unit of work at most.
    pub max_batch: usize,
    /// How long messages are held while a server is away: shorter than the broker waits for acknowledgements.
    pub hold: Duration,
    /// Where its lanes show that they get on.
    pub vitals: Vitals,
    /// What is told when the database is away.
    pub database: Arc<Outage>,
    /// What is told when the mail server is away, if this queue needs one.
    pub mail: Option<Arc<Outage>>,
    /// What is told when the broker is away.
    pub broker: Arc<Outage>,
}

/// A delivery, read.
struct Task {
    tag: u64,
    incoming: Incoming,
}

impl Worker {
    /// Works until `stop`; then what is in hand is finished and the rest is handed back. A lost subscription is made
    /// anew, for ever.
    pub async fn run(&self, stop: &CancellationToken) {
        let mut delays = Delays::during_outage();
        let mut pace = Pace::Full;
        loop {
            let subscribing = self.queues.subscribe(self.queue, self.stage, pace);
            let Some(subscribed) = stop.run_until_cancelled(subscribing).await else { return };
            let begin = Instant::now();
            let ended = match subscribed {
                Ok(subscription) => self.serve(subscription, pace, stop).await,
                Err(error) => Err(error),
            };
            pace = Pace::Full;
            match ended {
                Ok(()) if self.awaits_a_server() => self.servers_are_back(stop).await,
                Ok(()) => {}
                Err(error) => {
                    self.broker.begins(&error);
                    // A delivery that the client library cannot read breaks every subscription that is handed it.
                    // Handed out one by one it soon reaches the queue's delivery limit, and takes no other with it.
                    // Among dead letters there is no such limit, and no hurry.
                    let lasted = begin.elapsed() > SOON;
                    if !lasted {
                        pace = Pace::OneByOne;
                    }
                    if lasted || self.stage == Stage::Work {
                        delays = Delays::during_outage();
                    }
                    stop.run_until_cancelled(tokio::time::sleep(delays.next().unwrap_or_default())).await;
                }
            }
        }
    }

    fn awaits_a_server(&self) -> bool {
        self.database.is_on() || self.mail.as_ref().is_some_and(|mail| mail.is_on())
    }

    /// Takes nothing from the queue while nothing can be done with it.
    async fn servers_are_back(&self, stop: &CancellationToken) {
        for delay in Delays::during_outage() {
            match stop.run_until_cancelled(self.bus.probe(self.mail.is_some())).await {
                Some(Ok(())) => {
                    self.database.ends();
                    return self.mail.iter().for_each(|mail| mail.ends());
                }
                Some(Err(_)) => stop.run_until_cancelled(tokio::time::sleep(delay)).await,
                None => return,
            };
        }
    }

    /// Until told to stop, until the subscription is lost or has done its part, or until a server was away for too
    /// long.
    async fn serve(
        &self,
        mut subscription: Box<dyn Subscription>,
        pace: Pace,
        stop: &CancellationToken,
    ) -> Result<(), BrokerError> {
        self.broker.ends();
        let mut left = match pace {
            Pace::Full => usize::MAX,
            Pace::OneByOne => TRIED_ONE_BY_ONE,
        };
        info!(queue = self.queue.as_str(), stage = ?self.stage, "consuming");
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
            tokio::select! {
                next = subscription.next() => match next {
                    Ok(delivery) => {
                        if self.stage == Stage::Work {
                            crash_points::here(CrashPoint::WorkerDelivered);
                        }
                        let incoming = Incoming::read(delivery.message, delivery.redelivered, self.limits);
                        let task = Task { tag: delivery.tag, incoming };
                        // A lane that is gone has panicked, and the next turn of this loop ends with it.
                        let _ = lanes[lane_of(&task.incoming, lanes.len())].send(task);
                        left -= 1;
                        if left == 0 {
                            break Ok(());
                        }
                    }
                    Err(error) => break Err(error),
                },
                // What a lane held when it panicked comes again, and counts as a start without an end.
                Some(Err(panic)) = running.join_next() => break Err(BrokerError(format!("a lane ended: {panic}"))),
                () = halt.cancelled() => break Ok(()),
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
        let pulse = self.vitals.lane(self.queue.as_str());
        loop {
            pulse.idle();
            // What is in hand when the halt comes is finished; what was not begun goes back to the queue.
            if tasks.recv_many(&mut batch, self.max_batch).await == 0
                || halt.is_cancelled()
                || settler.is_over()
            {
                return;
            }
            let (tags, incoming): (Vec<_>, Vec<_>) =
                batch.drain(..).map(|task| (task.tag, task.incoming)).unzip();
            let too_early = crash_points::planted(PlantedBug::AckBeforeCommit);
            if too_early {
                settler.settle(&tags).await;
            }
            if self.stage == Stage::DeadLetters {
                crash_points::here(CrashPoint::ArchiveBefore);
            }
            let Some(fates) = self.fates(&incoming, &pulse, halt).await else {
                return;
            };
            for (incoming, fate) in incoming.iter().zip(fates) {
                self.tell(incoming, &fate);
            }
            crash_points::here(match self.stage {
                Stage::Work => CrashPoint::WorkerBeforeAck,
                Stage::DeadLetters => CrashPoint::ArchiveAfter,
            });
            if !too_early {
                settler.settle(&tags).await;
            }
        }
    }

    /// Holds what it has while a server is away, and goes on by itself when it is back; none if told to stop
    /// before that, or when it took so long that everything is to be handed back.
    async fn fates(&self, batch: &[Incoming], pulse: &Pulse, halt: &CancellationToken) -> Option<Vec<Fate>> {
        let mut delays = Delays::during_outage();
        let begin = Instant::now();
        loop {
            pulse.busy();
            let handled = match self.stage {
                Stage::Work => self.bus.handle(self.queue, batch).await,
                Stage::DeadLetters => self.bus.bury(self.queue, batch).await,
            };
            match handled {
                Ok(fates) => {
                    self.database.ends();
                    if fates.iter().any(asked_the_mail_server) {
                        self.mail.iter().for_each(|mail| mail.ends());
                    }
                    return Some(fates);
                }
                Err(away) => {
                    match (&away, &self.mail) {
                        (Away::Notifier(_), Some(mail)) => mail.begins(&away),
                        _ => self.database.begins(&away),
                    }
                    if begin.elapsed() > self.hold {
                        warn!(
                            queue = self.queue.as_str(),
                            "handing messages back until the server is there again"
                        );
                        halt.cancel();
                        return None;
                    }
                    let delay = delays.next().unwrap_or_default();
                    halt.run_until_cancelled(tokio::time::sleep(delay)).await?;
                }
            }
        }
    }

    /// A warning only where a person may have to act.
    fn tell(&self, incoming: &Incoming, fate: &Fate) {
        let (queue, message_id) = (self.queue.as_str(), incoming.message.message_id.as_deref());
        match fate {
            // A refusal is told to who waits for it, and nobody waits behind a queue.
            Fate::Handled | Fate::Refused(_) => {}
            Fate::Repeat => debug!(queue, message_id, "handled before"),
            Fate::Failed(error, Next::Retry(delay)) => {
                let error = text(&error.to_string());
                info!(queue, message_id, %error, retry_in_ms = delay.as_millis(), "failed, will be tried again");
            }
            Fate::Failed(error, Next::Dead(reason)) => {
                let error = text(&error.to_string());
                warn!(queue, message_id, %error, reason = reason.as_str(), "dead; see `allocation dead-letters`");
            }
        }
    }
}

fn asked_the_mail_server(fate: &Fate) -> bool {
    matches!(fate, Fate::Handled | Fate::Failed(Failure::NotTold(_), _))
}

/// Lines of one SKU share a lane, and so do the creation and the changes of one batch.
pub(super) fn lane_of(incoming: &Incoming, lanes: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    match incoming.decoded.as_ref().map(|envelope| &envelope.command) {
        Ok(Command::Allocate(command)) => command.sku.hash(&mut hasher),
        Ok(Command::Deallocate(command)) => command.sku.hash(&mut hasher),
        Ok(Command::CreateBatch(command)) => command.reference.hash(&mut hasher),
        Ok(Command::ChangeBatchQuantity(command)) => command.reference.hash(&mut hasher),
        Ok(Command::NotifyOutOfStock(command)) => command.orderid.hash(&mut hasher),
        Err(_) => {}
    }
    usize::try_from(hasher.finish() % lanes as u64).unwrap_or_default()
}

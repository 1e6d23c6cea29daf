//! The worker: takes what is ready in a queue, has the bus handle it, and settles it after the commit.
//!
//! A subscription feeds a few lanes. Commands about one thing go through one lane, so that they stay in order and
//! never wait for each other's locks; each lane takes all that is ready, up to a limit, into one unit of work.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinSet, time::Instant};
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
        message_bus::{Fate, Interrupted, MessageBus},
        outage::{Away, Outage},
        unit_of_work::text,
        verdict::Failure,
    },
};

use super::vitals::{Pulse, Vitals};

/// A subscription that is lost sooner may have been broken by what it was handed.
const SOON: Duration = Duration::from_secs(1);
/// How long a stop waits until starts are taken back.
const TAKES_BACK_WITHIN: Duration = Duration::from_secs(2);
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
    /// How long a unit of work may go on once the worker is to stop.
    pub finish_within: Duration,
    /// Where its lanes show that they get on.
    pub vitals: Vitals,
    /// What is told when the database is away.
    pub database: Arc<Outage>,
    /// What is told when the mail server is away, if this queue needs one.
    pub mail: Option<Arc<Outage>>,
    /// What is told when the broker is away.
    pub broker: Arc<Outage>,
}

/// How a subscription came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// It was stopped, or has done its part.
    Done,
    /// A server was away for too long: what was left is back in the queue. Whether anything was handled before.
    HandedBack { handled: bool },
}

/// A delivery, read.
struct Task {
    tag: u64,
    incoming: Incoming,
}

impl Worker {
    /// Works until `stop`; then units of work that have begun are finished and the rest is handed back. A lost subscription
    /// is replaced, without end.
    pub async fn run(&self, stop: &CancellationToken) {
        let mut delays = Delays::during_outage();
        let mut hand_backs = Delays::after_hand_back();
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
                Ok(Ended::Done) => {}
                Ok(Ended::HandedBack { handled }) => {
                    if handled {
                        hand_backs = Delays::after_hand_back();
                    }
                    let pause = hand_backs.next().unwrap_or_default();
                    if !self.wait_for_servers(stop).await {
                        // They answered at once, and yet nothing could be handled: no probe can tell when it can.
                        stop.run_until_cancelled(tokio::time::sleep(pause)).await;
                    }
                }
                Err(error) => {
                    self.broker.begins(&error);
                    // A delivery that the client library cannot read breaks every subscription that is handed it.
                    // Handed out one by one it soon reaches the queue's delivery limit, and takes no other with it. If
                    // this ends in a crash, the message that was delivered last goes behind those that were returned.
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

    /// Takes nothing from the queue while nothing can be done with it. Whether it had to wait.
    async fn wait_for_servers(&self, stop: &CancellationToken) -> bool {
        let mut waited = false;
        for delay in Delays::during_outage() {
            match stop.run_until_cancelled(self.bus.probe(self.mail.is_some())).await {
                Some(Ok(())) if waited => {
                    self.database.ends();
                    self.mail.iter().for_each(|mail| mail.ends());
                    break;
                }
                Some(Ok(())) | None => break,
                Some(Err(_)) => stop.run_until_cancelled(tokio::time::sleep(delay)).await,
            };
            waited = true;
        }
        waited
    }

    /// Until told to stop, until the subscription is lost or has done its part, or until a server was away for too
    /// long.
    async fn serve(
        &self,
        mut subscription: Box<dyn Subscription>,
        pace: Pace,
        stop: &CancellationToken,
    ) -> Result<Ended, BrokerError> {
        self.broker.ends();
        let mut left = match pace {
            Pace::Full => usize::MAX,
            Pace::OneByOne => TRIED_ONE_BY_ONE,
        };
        info!(queue = self.queue.as_str(), stage = ?self.stage, "consuming");
        let halt = CancellationToken::new();
        let handled = Arc::new(AtomicBool::new(false));
        let (handed_back, overdue) = (CancellationToken::new(), CancellationToken::new());
        let mut running = JoinSet::new();
        let lanes: Vec<_> = (0..self.lanes)
            .map(|_| {
                let (sender, tasks) = mpsc::unbounded_channel();
                let lane = Lane {
                    worker: self.clone(),
                    settler: subscription.settler(),
                    halt: halt.clone(),
                    overdue: overdue.clone(),
                    handed_back: handed_back.clone(),
                    handled: handled.clone(),
                };
                running.spawn(async move { lane.run(tasks).await });
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
                            break Ok(Ended::Done);
                        }
                    }
                    Err(error) => break Err(error),
                },
                // What a lane held when it panicked comes again, and counts as a start without an end.
                Some(Err(panic)) = running.join_next() => break Err(BrokerError(format!("a lane ended: {panic}"))),
                () = handed_back.cancelled() => {
                    break Ok(Ended::HandedBack { handled: handled.load(Ordering::Relaxed) });
                }
                () = stop.cancelled() => break Ok(Ended::Done),
            }
        };
        drop(lanes);
        // One by one, what was delivered is handled: a message that goes back alone goes behind others that went back before.
        if pace == Pace::Full || ended != Ok(Ended::Done) {
            halt.cancel();
        }
        let finished = async { while running.join_next().await.is_some() {} };
        if tokio::time::timeout(self.finish_within, finished).await.is_err() {
            halt.cancel();
            overdue.cancel();
            while running.join_next().await.is_some() {}
        }
        subscription.close().await;
        ended
    }

    async fn handle(&self, batch: &[Incoming]) -> Result<Vec<Fate>, Interrupted> {
        match self.stage {
            Stage::Work => self.bus.handle(self.queue, batch).await,
            Stage::DeadLetters => self.bus.bury(self.queue, batch).await,
        }
    }

    fn servers_answered(&self, fates: &[Fate]) {
        self.database.ends();
        if fates.iter().any(asked_the_mail_server) {
            self.mail.iter().for_each(|mail| mail.ends());
        }
    }

    /// A warning only where a person may have to act.
    fn tell(&self, incoming: &Incoming, fate: &Fate) {
        let (queue, message_id) = (self.queue.as_str(), incoming.message.message_id.as_deref());
        match fate {
            // The answer goes to the sender that waits; senders to a queue do not wait.
            Fate::Handled | Fate::Refused(_) | Fate::InDoubt => {}
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

/// Handles the deliveries of one lane, in order.
struct Lane {
    worker: Worker,
    settler: Arc<dyn Settler>,
    /// The subscription is to end.
    halt: CancellationToken,
    /// It was to end some time ago.
    overdue: CancellationToken,
    /// It ends because a server was away for too long.
    handed_back: CancellationToken,
    /// Whether any lane has handled anything.
    handled: Arc<AtomicBool>,
}

impl Lane {
    async fn run(&self, mut tasks: mpsc::UnboundedReceiver<Task>) {
        let Worker { max_batch, stage, .. } = self.worker;
        let mut batch = Vec::with_capacity(max_batch);
        let pulse = self.worker.vitals.lane(self.worker.queue.as_str());
        loop {
            pulse.idle();
            // A unit of work that has begun when the halt comes is finished; what was not begun goes back to the queue.
            if tasks.recv_many(&mut batch, max_batch).await == 0
                || self.halt.is_cancelled()
                || self.settler.is_over()
            {
                return;
            }
            if stage == Stage::DeadLetters {
                crash_points::here(CrashPoint::ArchiveBefore);
            }
            self.handle(&mut batch, &pulse).await;
            if !batch.is_empty() {
                let left: Vec<_> = batch.into_iter().map(|task| task.incoming).collect();
                let taken_back = self.worker.bus.take_back_starts(self.worker.queue, &left);
                // A store that is silent is no reason to stop late. What was not written stays for the next time.
                let _ = tokio::time::timeout(TAKES_BACK_WITHIN, taken_back).await;
                return;
            }
        }
    }

    /// Handles and settles messages. Keeps them while a server is away, and goes on when it is back. What is left in the batch
    /// is to go back to the queue: it is to stop before that, or the server was away for too long.
    async fn handle(&self, batch: &mut Vec<Task>, pulse: &Pulse) {
        let worker = &self.worker;
        let mut delays = Delays::during_outage();
        let begin = Instant::now();
        loop {
            pulse.busy();
            let (tags, incoming): (Vec<_>, Vec<_>) =
                batch.drain(..).map(|task| (task.tag, task.incoming)).unzip();
            let too_early = crash_points::planted(PlantedBug::AckBeforeCommit);
            if too_early {
                self.settler.settle(&tags).await;
            }
            let (fates, away) = tokio::select! {
                handled = worker.handle(&incoming) => match handled {
                    Ok(fates) => (fates, None),
                    Err(Interrupted { done, away }) => (done, Some(away)),
                },
                () = self.overdue.cancelled() => (Vec::new(), None),
            };
            let done = fates.len();
            self.settle(&tags[..done], &incoming[..done], fates, too_early).await;
            let left = tags.into_iter().zip(incoming).skip(done);
            batch.extend(left.map(|(tag, incoming)| Task { tag, incoming }));
            let Some(away) = away else { return };
            if !self.waits_for(&away, begin.elapsed(), delays.next().unwrap_or_default()).await {
                return;
            }
        }
    }

    /// Says what became of messages, and acknowledges them.
    async fn settle(&self, tags: &[u64], incoming: &[Incoming], fates: Vec<Fate>, too_early: bool) {
        if fates.is_empty() {
            return;
        }
        self.handled.store(true, Ordering::Relaxed);
        self.worker.servers_answered(&fates);
        for (incoming, fate) in incoming.iter().zip(fates) {
            self.worker.tell(incoming, &fate);
        }
        crash_points::here(match self.worker.stage {
            Stage::Work => CrashPoint::WorkerBeforeAck,
            Stage::DeadLetters => CrashPoint::ArchiveAfter,
        });
        if !too_early {
            self.settler.settle(tags).await;
        }
    }

    /// Waits a little for a server; false if the messages are to go back to the queue.
    async fn waits_for(&self, away: &Away, waited: Duration, delay: Duration) -> bool {
        let Self { worker, halt, .. } = self;
        match (away, &worker.mail) {
            (Away::Notifier(_), Some(mail)) => mail.begins(away),
            _ => worker.database.begins(away),
        }
        if waited > worker.hold {
            let queue = worker.queue.as_str();
            warn!(queue, "handing messages back until the server is there again");
            self.handed_back.cancel();
            halt.cancel();
            return false;
        }
        halt.run_until_cancelled(tokio::time::sleep(delay)).await.is_some()
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ports::queue::Message;

    const LANES: usize = 1000;

    fn lane(kind: &str, body: &serde_json::Value) -> usize {
        let body = body.to_string().into_bytes();
        let message = Message { kind: kind.into(), message_id: Some("m".into()), body, ..Message::default() };
        let incoming = Incoming::read(message, false, Limits { body: 1000, headers: 1000 });
        assert!(incoming.decoded.is_ok(), "{:?}", incoming.decoded);
        lane_of(&incoming, LANES)
    }

    #[test]
    fn what_is_about_one_thing_shares_a_lane() {
        let line = |orderid, sku| lane("allocate", &json!({ "orderid": orderid, "sku": sku, "qty": 1 }));
        let cancelled = lane("deallocate", &json!({ "orderid": "o-3", "sku": "LAMP" }));
        assert_eq!([line("o-1", "LAMP"), line("o-2", "LAMP"), cancelled], [cancelled; 3]);
        assert_ne!(line("o-1", "LAMP"), line("o-1", "VASE"));

        let batch =
            |name, sku| lane("create_batch", &json!({ "ref": name, "sku": sku, "qty": 1, "eta": null }));
        let changed = lane("change_batch_quantity", &json!({ "batchref": "b-1", "qty": 2 }));
        assert_eq!([batch("b-1", "LAMP"), batch("b-1", "VASE")], [changed; 2]);
        assert_ne!(batch("b-2", "LAMP"), changed);

        let notice =
            |orderid, sku| lane("out_of_stock", &json!({ "orderid": orderid, "sku": sku, "qty": 1 }));
        assert_eq!(notice("o-1", "LAMP"), notice("o-1", "VASE"));
    }
}

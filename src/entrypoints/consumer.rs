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
    crash_points::{self, CrashPoint, SeededBug},
    domain::Command,
    ports::{
        error::{BrokerError, error_text},
        failed_messages::RetryDecision,
        queue::{Acknowledger, Prefetch, QueueKind, QueueName, Queues, Subscription},
    },
    service::{
        availability::{AvailabilityLog, ServerUnavailable},
        backoff::Backoff,
        decode::Limits,
        failure::Failure,
        message_bus::{CommandOutcome, Interrupted, MessageBus},
        received::ReceivedMessage,
    },
};

use super::watchdog::{LaneStatus, Watchdog};

/// A subscription that is lost sooner may have been broken by what it was handed.
const MIN_SUBSCRIPTION_LIFETIME: Duration = Duration::from_secs(1);
/// How long a stop waits until starts are taken back.
const TAKES_BACK_WITHIN: Duration = Duration::from_secs(2);
/// So many deliveries go well one by one before they are taken at full pace again.
const PROBE_DELIVERIES: usize = 20;

/// Consumes one queue.
#[derive(Clone)]
pub struct Consumer {
    /// Which queue.
    pub queue: QueueName,
    /// Its work, or what the broker put aside from it.
    pub queue_kind: QueueKind,
    /// What is not even read.
    pub limits: Limits,
    /// Where it is.
    pub queues: Arc<dyn Queues>,
    /// Who handles its commands.
    pub bus: MessageBus,
    /// Units of work in flight at most.
    pub partitions: usize,
    /// Commands in one unit of work at most.
    pub max_batch: usize,
    /// How long messages are held while a server is away: shorter than the broker waits for acknowledgements.
    pub requeue_after: Duration,
    /// How long a unit of work may go on once the worker is to stop.
    pub finish_timeout: Duration,
    /// Where its lanes show that they get on.
    pub watchdog: Watchdog,
    /// What is told when the database is away.
    pub database: Arc<AvailabilityLog>,
    /// What is told when the mail server is away, if this queue needs one.
    pub mail: Option<Arc<AvailabilityLog>>,
    /// What is told when the broker is away.
    pub broker: Arc<AvailabilityLog>,
}

/// How a subscription came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConsumeEnd {
    /// It was stopped, or has done its part.
    Stopped,
    /// A server was away for too long: what was left is back in the queue. Whether anything was handled before.
    Requeued { handled: bool },
}

/// A delivery, read.
struct PendingDelivery {
    tag: u64,
    received: ReceivedMessage,
}

impl Consumer {
    /// Works until `stop`; then units of work that have begun are finished and the rest is handed back. A lost subscription
    /// is replaced, without end.
    pub async fn run(&self, stop: &CancellationToken) {
        let mut delays = Backoff::during_outage();
        let mut hand_backs = Backoff::after_hand_back();
        let mut prefetch = Prefetch::Configured;
        loop {
            let subscribing = self.queues.subscribe(self.queue, self.queue_kind, prefetch);
            let Some(subscribed) = stop.run_until_cancelled(subscribing).await else { return };
            let begin = Instant::now();
            let ended = match subscribed {
                Ok(subscription) => self.serve(subscription, prefetch, stop).await,
                Err(error) => Err(error),
            };
            prefetch = Prefetch::Configured;
            match ended {
                Ok(ConsumeEnd::Stopped) => {}
                Ok(ConsumeEnd::Requeued { handled }) => {
                    if handled {
                        hand_backs = Backoff::after_hand_back();
                    }
                    let pause = hand_backs.next().unwrap_or_default();
                    if !self.wait_until_available(stop).await {
                        // They answered at once, and yet nothing could be handled: no probe can tell when it can.
                        stop.run_until_cancelled(tokio::time::sleep(pause)).await;
                    }
                }
                Err(error) => {
                    self.broker.down(&error);
                    // A delivery that the client library cannot read breaks every subscription that is handed it.
                    // Handed out one by one it soon reaches the queue's delivery limit, and takes no other with it. If
                    // this ends in a crash, the message that was delivered last goes behind those that were returned.
                    // Among dead letters there is no such limit, and no hurry.
                    let lasted = begin.elapsed() > MIN_SUBSCRIPTION_LIFETIME;
                    if !lasted {
                        prefetch = Prefetch::One;
                    }
                    if lasted || self.queue_kind == QueueKind::Main {
                        delays = Backoff::during_outage();
                    }
                    stop.run_until_cancelled(tokio::time::sleep(delays.next().unwrap_or_default())).await;
                }
            }
        }
    }

    /// Takes nothing from the queue while nothing can be done with it. Whether it had to wait.
    async fn wait_until_available(&self, stop: &CancellationToken) -> bool {
        let mut waited = false;
        for delay in Backoff::during_outage() {
            match stop.run_until_cancelled(self.bus.probe(self.mail.is_some())).await {
                Some(Ok(())) if waited => {
                    self.database.up();
                    self.mail.iter().for_each(|mail| mail.up());
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
        prefetch: Prefetch,
        stop: &CancellationToken,
    ) -> Result<ConsumeEnd, BrokerError> {
        self.broker.up();
        let mut left = match prefetch {
            Prefetch::Configured => usize::MAX,
            Prefetch::One => PROBE_DELIVERIES,
        };
        info!(queue = self.queue.as_str(), queue_kind = ?self.queue_kind, "consuming");
        let halt = CancellationToken::new();
        let handled = Arc::new(AtomicBool::new(false));
        let (handed_back, overdue) = (CancellationToken::new(), CancellationToken::new());
        let mut running = JoinSet::new();
        let partitions: Vec<_> = (0..self.partitions)
            .map(|_| {
                let (sender, tasks) = mpsc::unbounded_channel();
                let partition = Partition {
                    worker: self.clone(),
                    acknowledger: subscription.acknowledger(),
                    halt: halt.clone(),
                    overdue: overdue.clone(),
                    handed_back: handed_back.clone(),
                    handled: handled.clone(),
                };
                running.spawn(async move { partition.run(tasks).await });
                sender
            })
            .collect();
        let ended = loop {
            tokio::select! {
                next = subscription.next() => match next {
                    Ok(delivery) => {
                        if self.queue_kind == QueueKind::Main {
                            crash_points::here(CrashPoint::WorkerDelivered);
                        }
                        let received = ReceivedMessage::read(delivery.message, delivery.redelivered, self.limits);
                        let task = PendingDelivery { tag: delivery.tag, received };
                        // A lane that is gone has panicked, and the next turn of this loop ends with it.
                        let _ = partitions[partition_of(&task.received, partitions.len())].send(task);
                        left -= 1;
                        if left == 0 {
                            break Ok(ConsumeEnd::Stopped);
                        }
                    }
                    Err(error) => break Err(error),
                },
                // What a lane held when it panicked comes again, and counts as a start without an end.
                Some(Err(panic)) = running.join_next() => break Err(BrokerError::Unavailable(format!("a lane ended: {panic}").into())),
                () = handed_back.cancelled() => {
                    break Ok(ConsumeEnd::Requeued { handled: handled.load(Ordering::Relaxed) });
                }
                () = stop.cancelled() => break Ok(ConsumeEnd::Stopped),
            }
        };
        drop(partitions);
        // One by one, what was delivered is handled: a message that goes back alone goes behind others that went back before.
        if prefetch == Prefetch::Configured || !matches!(ended, Ok(ConsumeEnd::Stopped)) {
            halt.cancel();
        }
        let finished = async { while running.join_next().await.is_some() {} };
        if tokio::time::timeout(self.finish_timeout, finished).await.is_err() {
            halt.cancel();
            overdue.cancel();
            while running.join_next().await.is_some() {}
        }
        subscription.close().await;
        ended
    }

    async fn handle(&self, batch: &[ReceivedMessage]) -> Result<Vec<CommandOutcome>, Interrupted> {
        match self.queue_kind {
            QueueKind::Main => self.bus.handle(self.queue, batch).await,
            QueueKind::DeadLetter => self.bus.archive(self.queue, batch).await,
        }
    }

    fn note_availability(&self, outcomes: &[CommandOutcome]) {
        self.database.up();
        if outcomes.iter().any(used_the_mail_server) {
            self.mail.iter().for_each(|mail| mail.up());
        }
    }

    /// A warning only where a person may have to act.
    fn log_outcome(&self, received: &ReceivedMessage, outcome: &CommandOutcome) {
        let (queue, message_id) = (self.queue.as_str(), received.message.message_id.as_deref());
        match outcome {
            // The answer goes to the sender that waits; senders to a queue do not wait.
            CommandOutcome::Handled | CommandOutcome::Reported(_) | CommandOutcome::Unknown => {}
            CommandOutcome::Duplicate => debug!(queue, message_id, "handled before"),
            CommandOutcome::Recorded(error, RetryDecision::Retry(delay)) => {
                let error = error_text(error);
                info!(
                    queue,
                    message_id,
                    error,
                    retry_in_ms = delay.as_millis(),
                    "failed, will be tried again"
                );
            }
            CommandOutcome::Recorded(error, RetryDecision::Dead(reason)) => {
                let error = error_text(error);
                warn!(
                    queue,
                    message_id,
                    error,
                    reason = reason.as_str(),
                    "dead; see `allocation dead-letters`"
                );
            }
        }
    }
}

/// Handles the deliveries of one lane, in order.
struct Partition {
    worker: Consumer,
    acknowledger: Arc<dyn Acknowledger>,
    /// The subscription is to end.
    halt: CancellationToken,
    /// It was to end some time ago.
    overdue: CancellationToken,
    /// It ends because a server was away for too long.
    handed_back: CancellationToken,
    /// Whether any lane has handled anything.
    handled: Arc<AtomicBool>,
}

impl Partition {
    async fn run(&self, mut tasks: mpsc::UnboundedReceiver<PendingDelivery>) {
        let Consumer { max_batch, queue_kind, .. } = self.worker;
        let mut batch = Vec::with_capacity(max_batch);
        let lane_status = self.worker.watchdog.lane(self.worker.queue.as_str());
        loop {
            lane_status.idle();
            // A unit of work that has begun when the halt comes is finished; what was not begun goes back to the queue.
            if tasks.recv_many(&mut batch, max_batch).await == 0
                || self.halt.is_cancelled()
                || self.acknowledger.is_closed()
            {
                return;
            }
            if queue_kind == QueueKind::DeadLetter {
                crash_points::here(CrashPoint::ArchiveBefore);
            }
            self.handle(&mut batch, &lane_status).await;
            if !batch.is_empty() {
                let left: Vec<_> = batch.into_iter().map(|task| task.received).collect();
                let taken_back = self.worker.bus.revert_starts(self.worker.queue, &left);
                // A store that is silent is no reason to stop late. What was not written stays for the next time.
                let _ = tokio::time::timeout(TAKES_BACK_WITHIN, taken_back).await;
                return;
            }
        }
    }

    /// Handles and settles messages. Keeps them while a server is away, and goes on when it is back. What is left in the batch
    /// is to go back to the queue: it is to stop before that, or the server was away for too long.
    async fn handle(&self, batch: &mut Vec<PendingDelivery>, lane_status: &LaneStatus) {
        let worker = &self.worker;
        let mut delays = Backoff::during_outage();
        let begin = Instant::now();
        loop {
            lane_status.busy();
            let (tags, received): (Vec<_>, Vec<_>) =
                batch.drain(..).map(|task| (task.tag, task.received)).unzip();
            let too_early = crash_points::planted(SeededBug::AckBeforeCommit);
            if too_early {
                self.acknowledger.ack(&tags).await;
            }
            let (outcomes, away) = tokio::select! {
                handled = worker.handle(&received) => match handled {
                    Ok(outcomes) => (outcomes, None),
                    Err(Interrupted { done, away }) => (done, Some(away)),
                },
                () = self.overdue.cancelled() => (Vec::new(), None),
            };
            let done = outcomes.len();
            self.ack(&tags[..done], &received[..done], outcomes, too_early).await;
            let left = tags.into_iter().zip(received).skip(done);
            batch.extend(left.map(|(tag, received)| PendingDelivery { tag, received }));
            let Some(away) = away else { return };
            if !self.wait_for_server(&away, begin.elapsed(), delays.next().unwrap_or_default()).await {
                return;
            }
        }
    }

    /// Says what became of messages, and acknowledges them.
    async fn ack(
        &self,
        tags: &[u64],
        received: &[ReceivedMessage],
        outcomes: Vec<CommandOutcome>,
        too_early: bool,
    ) {
        if outcomes.is_empty() {
            return;
        }
        self.handled.store(true, Ordering::Relaxed);
        self.worker.note_availability(&outcomes);
        for (received, outcome) in received.iter().zip(outcomes) {
            self.worker.log_outcome(received, &outcome);
        }
        crash_points::here(match self.worker.queue_kind {
            QueueKind::Main => CrashPoint::WorkerBeforeAck,
            QueueKind::DeadLetter => CrashPoint::ArchiveAfter,
        });
        if !too_early {
            self.acknowledger.ack(tags).await;
        }
    }

    /// Waits a little for a server; false if the messages are to go back to the queue.
    async fn wait_for_server(&self, away: &ServerUnavailable, waited: Duration, delay: Duration) -> bool {
        let Self { worker, halt, .. } = self;
        match (away, &worker.mail) {
            (ServerUnavailable::Notifier(_), Some(mail)) => mail.down(away),
            _ => worker.database.down(away),
        }
        if waited > worker.requeue_after {
            let queue = worker.queue.as_str();
            warn!(queue, "handing messages back until the server is there again");
            self.handed_back.cancel();
            halt.cancel();
            return false;
        }
        halt.run_until_cancelled(tokio::time::sleep(delay)).await.is_some()
    }
}

fn used_the_mail_server(outcome: &CommandOutcome) -> bool {
    matches!(outcome, CommandOutcome::Handled | CommandOutcome::Recorded(Failure::Notification(_), _))
}

/// Lines of one SKU share a lane, and so do the creation and the changes of one batch.
pub(super) fn partition_of(received: &ReceivedMessage, partitions: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    match received.decoded.as_ref().map(|envelope| &envelope.command) {
        Ok(Command::Allocate(command)) => command.sku.hash(&mut hasher),
        Ok(Command::Deallocate(command)) => command.sku.hash(&mut hasher),
        Ok(Command::CreateBatch(command)) => command.reference.hash(&mut hasher),
        Ok(Command::ChangeBatchQuantity(command)) => command.reference.hash(&mut hasher),
        Ok(Command::NotifyOutOfStock(command)) => command.orderid.hash(&mut hasher),
        Err(_) => {}
    }
    usize::try_from(hasher.finish() % partitions as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ports::queue::Message;

    const LANES: usize = 1000;

    fn partition(kind: &str, body: &serde_json::Value) -> usize {
        let body = body.to_string().into_bytes();
        let message = Message { kind: kind.into(), message_id: Some("m".into()), body, ..Message::default() };
        let received = ReceivedMessage::read(message, false, Limits { body_bytes: 1000, header_bytes: 1000 });
        assert!(received.decoded.is_ok(), "{:?}", received.decoded);
        partition_of(&received, LANES)
    }

    #[test]
    fn what_is_about_one_thing_shares_a_lane() {
        let line = |orderid, sku| partition("allocate", &json!({ "orderid": orderid, "sku": sku, "qty": 1 }));
        let cancelled = partition("deallocate", &json!({ "orderid": "o-3", "sku": "LAMP" }));
        assert_eq!([line("o-1", "LAMP"), line("o-2", "LAMP"), cancelled], [cancelled; 3]);
        assert_ne!(line("o-1", "LAMP"), line("o-1", "VASE"));

        let batch =
            |name, sku| partition("create_batch", &json!({ "ref": name, "sku": sku, "qty": 1, "eta": null }));
        let changed = partition("change_batch_quantity", &json!({ "batchref": "b-1", "qty": 2 }));
        assert_eq!([batch("b-1", "LAMP"), batch("b-1", "VASE")], [changed; 2]);
        assert_ne!(batch("b-2", "LAMP"), changed);

        let notification =
            |orderid, sku| partition("out_of_stock", &json!({ "orderid": orderid, "sku": sku, "qty": 1 }));
        assert_eq!(notification("o-1", "LAMP"), notification("o-1", "VASE"));
    }
}

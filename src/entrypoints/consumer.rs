//! The consumer: takes what is ready in a queue, passes it to a handler, and acknowledges the messages that have an outcome.
//!
//! A subscription feeds a few partitions. Commands about one line or batch go through one partition, so that they stay in
//! order and do not wait for each other's locks. Each partition takes all that is ready, up to a limit, as one batch.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc::{self, UnboundedSender},
    task::{JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    ports::{
        error::{BrokerError, error_text},
        observer::{Observer, Report, SubscriptionChange, SubscriptionReport},
        processes::MESSAGES_RETURNED,
        queue::{Acknowledger, Delivery, QueueKind, QueueName, Queues, Subscription},
    },
    service::{
        availability::{AvailabilityLog, Dependencies},
        backoff::Backoff,
        batch_handler::BatchHandler,
        decode::Limits,
        received::ReceivedMessage,
    },
};

use super::{
    partition::{Partition, PendingDelivery, Signals, partition_of},
    prefetch::{InFlight, PrefetchLimits},
    storage::Storage,
    watchdog::{ConsumerStatus, Watchdog},
};

/// A subscription that is lost sooner may have been lost because of a delivery.
const MIN_SUBSCRIPTION_LIFETIME: Duration = Duration::from_secs(1);
/// After such a loss, this many deliveries are taken one by one.
const PROBE_DELIVERIES: usize = 20;

/// Consumes one queue.
#[derive(Clone)]
pub struct Consumer {
    /// The queue.
    pub queue: QueueName,
    /// The queue itself, or its dead letters.
    pub queue_kind: QueueKind,
    /// Whether the broker dead-letters a message after a number of deliveries.
    pub has_delivery_limit: bool,
    /// A larger message is not parsed.
    pub limits: Limits,
    /// The limits of the unacknowledged deliveries.
    pub prefetch: PrefetchLimits,
    /// Opens subscriptions.
    pub queues: Arc<dyn Queues>,
    /// Handles the messages.
    pub handler: Arc<dyn BatchHandler>,
    /// The number of batches that are handled concurrently.
    pub partitions: usize,
    /// The largest number of messages in a batch.
    pub max_batch: usize,
    /// How long messages are collected for a batch after the first of them.
    pub collect_for: Duration,
    /// How long messages are held during an outage: shorter than the broker's timeout for acknowledgements.
    pub requeue_after: Duration,
    /// How long a batch may take to finish after a stop.
    pub finish_timeout: Duration,
    /// Observes the partitions.
    pub watchdog: Watchdog,
    /// Whether failed messages may take more space.
    pub storage: Storage,
    /// The servers that the handler needs.
    pub dependencies: Dependencies,
    /// The availability of the broker.
    pub broker: Arc<AvailabilityLog>,
    /// Gets the reports.
    pub observer: Arc<dyn Observer>,
}

/// Why a subscription ended.
#[derive(Debug)]
enum ConsumerStopped {
    /// It was stopped, or has taken as many deliveries as it should.
    Finished,
    /// Messages went back to the queue: a server was unavailable for too long. `handled` tells whether any message was
    /// handled before.
    Requeued { handled: bool },
    /// A partition panicked outside of any handler of a command.
    HandlerPanicked(JoinError),
    /// The connection to the broker is lost.
    SubscriptionLost(BrokerError),
}

impl ConsumerStopped {
    /// What it means for the subscription.
    fn change(&self) -> SubscriptionChange {
        match self {
            Self::Finished | Self::Requeued { .. } => SubscriptionChange::Ended,
            Self::HandlerPanicked(_) | Self::SubscriptionLost(_) => SubscriptionChange::Lost,
        }
    }
}

impl Consumer {
    /// Consumes until `stop`; then begun batches are finished and the other messages return to the queue. A lost
    /// subscription is replaced, without end.
    pub async fn run(&self, stop: &CancellationToken) {
        let mut delays = Backoff::during_outage();
        let mut requeue_delays = Backoff::after_requeue();
        let mut probing = false;
        let status = self.watchdog.register_consumer(self.queue_name());
        self.report(SubscriptionChange::Pending);
        loop {
            if let Some(reason) = self.storage.is_full() {
                status.not_consuming(&reason);
                let Some(()) = stop.run_until_cancelled(self.storage.freed()).await else { return };
            }
            let subscribing = self.subscribe(if probing { 1 } else { self.prefetch.messages }, &status);
            let Some(subscribed) = stop.run_until_cancelled(subscribing).await else { return };
            let begin = Instant::now();
            let stopped = match subscribed {
                Ok(subscription) => {
                    self.report(SubscriptionChange::Began);
                    let stopped = self.serve(subscription, probing, stop).await;
                    self.report(stopped.change());
                    stopped
                }
                Err(error) => ConsumerStopped::SubscriptionLost(error),
            };
            probing = false;
            match stopped {
                ConsumerStopped::Finished => continue,
                ConsumerStopped::Requeued { handled } => {
                    status.not_consuming(MESSAGES_RETURNED);
                    if handled {
                        requeue_delays = Backoff::after_requeue();
                    }
                    self.pause_after_requeue(requeue_delays.next().unwrap_or_default(), stop).await;
                    continue;
                }
                ConsumerStopped::HandlerPanicked(panic) => self.log_panic(&panic),
                // This concerns the queue only, and is logged already.
                ConsumerStopped::SubscriptionLost(BrokerError::Rejected(_)) => {}
                ConsumerStopped::SubscriptionLost(error) => self.broker.down(&error),
            }
            // A delivery that the client library cannot read breaks every subscription that receives it. Delivered one by one
            // it soon reaches the delivery limit of its queue, and no other message does. A queue without such a limit must be
            // retried slowly. After a crash, the message that was delivered last goes behind those that were returned.
            let lasted = begin.elapsed() > MIN_SUBSCRIPTION_LIFETIME;
            if !lasted {
                probing = true;
            }
            if lasted || self.has_delivery_limit {
                delays = Backoff::during_outage();
            }
            stop.run_until_cancelled(tokio::time::sleep(delays.next().unwrap_or_default())).await;
        }
    }

    /// Waits until the servers are available. If they respond immediately although no message could be handled, a probe cannot
    /// tell when one can, so this pauses.
    async fn pause_after_requeue(&self, pause: Duration, stop: &CancellationToken) {
        if !self.wait_until_available(stop).await {
            stop.run_until_cancelled(tokio::time::sleep(pause)).await;
        }
    }

    /// The broker may end a subscription for a reason of its own and work otherwise.
    fn lost(&self, error: BrokerError) -> ConsumerStopped {
        if let BrokerError::Rejected(_) = error {
            let (queue, error) = (self.queue_name(), error_text(&error));
            warn!(queue, error, "the broker ended the subscription, subscribing again");
        }
        ConsumerStopped::SubscriptionLost(error)
    }

    fn log_panic(&self, panic: &JoinError) {
        let queue = self.queue.as_str();
        error!(queue, %panic, "handler panicked outside of a command, its messages will be redelivered");
    }

    /// The queue as it is named in logs and health checks.
    fn queue_name(&self) -> String {
        match self.queue_kind {
            QueueKind::Main => self.queue.as_str().to_owned(),
            QueueKind::DeadLetter => format!("{}.dlq", self.queue.as_str()),
        }
    }

    fn report(&self, change: SubscriptionChange) {
        let (queue, queue_kind) = (self.queue, self.queue_kind);
        self.observer.observe(&Report::Subscription(SubscriptionReport { queue, queue_kind, change }));
    }

    async fn subscribe(
        &self,
        prefetch: u16,
        status: &ConsumerStatus,
    ) -> Result<Box<dyn Subscription>, BrokerError> {
        let subscribed =
            self.queues.subscribe(self.queue, self.queue_kind, prefetch, self.prefetch.bytes).await;
        match &subscribed {
            Ok(_) => status.consuming(),
            Err(refused @ BrokerError::Rejected(_)) => {
                // The broker works otherwise: the queue is missing, or a permission is.
                let (queue, error) = (self.queue_name(), error_text(refused));
                if status.not_consuming(&error) {
                    warn!(queue, error, "queue cannot be consumed, retrying");
                }
            }
            Err(error) => _ = status.not_consuming(&error_text(error)),
        }
        subscribed
    }

    /// Waits until the handler's servers are available; false if they were available immediately.
    async fn wait_until_available(&self, stop: &CancellationToken) -> bool {
        let mut waited = false;
        for delay in Backoff::during_outage() {
            match stop.run_until_cancelled(self.handler.probe()).await {
                Some(Ok(())) if waited => {
                    self.dependencies.up();
                    break;
                }
                Some(Ok(())) | None => break,
                Some(Err(error)) => {
                    self.dependencies.down(&error);
                    stop.run_until_cancelled(tokio::time::sleep(delay)).await
                }
            };
            waited = true;
        }
        waited
    }

    /// Serves a subscription to its end. For `probing` its deliveries come one by one, and only a few of them are taken.
    async fn serve(
        &self,
        mut subscription: Box<dyn Subscription>,
        probing: bool,
        stop: &CancellationToken,
    ) -> ConsumerStopped {
        self.broker.up();
        info!(queue = self.queue.as_str(), queue_kind = ?self.queue_kind, "consuming");
        let in_flight = Arc::new(InFlight::new(self.prefetch.bytes, subscription.flow_control()));
        self.watchdog.register_deliveries(self.queue, &in_flight);
        let signals = Signals::new(in_flight.clone());
        let mut running = JoinSet::new();
        let partitions = self.start_partitions(&mut running, &subscription.acknowledger(), &signals);
        let mut left = if probing { PROBE_DELIVERIES } else { usize::MAX };
        let stopped = loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break ConsumerStopped::Finished,
                () = self.storage.filled() => break ConsumerStopped::Finished,
                // The messages of the partition are redelivered, and count as starts without an end.
                Some(Err(panic)) = running.join_next() => break ConsumerStopped::HandlerPanicked(panic),
                () = signals.requeue.cancelled() => {
                    break ConsumerStopped::Requeued { handled: signals.handled() };
                }
                next = subscription.next() => match next {
                    Ok(delivery) => {
                        in_flight.add(delivery.message.size());
                        self.pass_on(delivery, &partitions);
                        left -= 1;
                        if left == 0 {
                            break ConsumerStopped::Finished;
                        }
                    }
                    Err(error) => break self.lost(error),
                },
                // Last, so that no received message waits.
                () = in_flight.exhausted() => {}
            }
        };
        drop(partitions);
        // Messages that are delivered one by one are handled: one that returns alone would go behind those that returned before.
        if !probing || !matches!(stopped, ConsumerStopped::Finished) {
            signals.halt.cancel();
        }
        self.finish(running, &signals).await;
        subscription.close().await;
        stopped
    }

    fn start_partitions(
        &self,
        running: &mut JoinSet<()>,
        acknowledger: &Arc<dyn Acknowledger>,
        signals: &Signals,
    ) -> Vec<UnboundedSender<PendingDelivery>> {
        let mut start = || {
            let (sender, deliveries) = mpsc::unbounded_channel();
            let partition = Partition {
                queue: self.queue,
                observer: self.observer.clone(),
                handler: self.handler.clone(),
                dependencies: self.dependencies.clone(),
                max_batch: self.max_batch,
                collect_for: self.collect_for,
                requeue_after: self.requeue_after,
                acknowledger: acknowledger.clone(),
                status: match self.queue_kind {
                    QueueKind::Main => self.watchdog.register_main(self.queue),
                    QueueKind::DeadLetter => self.watchdog.register(self.queue.as_str()),
                },
                signals: signals.clone(),
            };
            running.spawn(async move { partition.run(deliveries).await });
            sender
        };
        (0..self.partitions).map(|_| start()).collect()
    }

    fn pass_on(&self, delivery: Delivery, partitions: &[UnboundedSender<PendingDelivery>]) {
        let Delivery { tag, redelivered, message } = delivery;
        let received = ReceivedMessage::read(self.queue, message, redelivered, self.limits);
        let partition = &partitions[partition_of(&received, partitions.len())];
        // A partition that does not receive has panicked, which ends the subscription.
        let _ = partition.send(PendingDelivery { tag, received });
    }

    /// Waits for begun batches, but not longer than the time to finish.
    async fn finish(&self, mut running: JoinSet<()>, signals: &Signals) {
        let finished = async { while running.join_next().await.is_some() {} };
        if tokio::time::timeout(self.finish_timeout, finished).await.is_err() {
            signals.halt.cancel();
            signals.overdue.cancel();
            while running.join_next().await.is_some() {}
        }
    }
}

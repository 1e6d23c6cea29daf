//! Partitions: messages of one partition are handled in order, one unit of work at a time.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::{
    ports::{
        answered::{Answered, MissingAnswers},
        observer::{Observer, Report},
        queue::{Acknowledger, QueueName},
    },
    service::{
        availability::{Dependencies, ServerUnavailable},
        backoff::Backoff,
        batch_handler::{BatchHandler, HandleError},
        outcome::CommandOutcome,
        received::ReceivedMessage,
    },
};

use super::{outcome_log::log_outcome, prefetch::InFlight, watchdog::PartitionStatus};

/// How long a stop waits for recorded starts to be reverted.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// The partition of a message: messages with one key share a partition.
pub(super) fn partition_of(received: &ReceivedMessage, partitions: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    if let Ok(envelope) = &received.decoded {
        envelope.content.partition_key().hash(&mut hasher);
    }
    usize::try_from(hasher.finish() % partitions as u64).unwrap_or_default()
}

/// A delivery, decoded.
pub(super) struct PendingDelivery {
    pub(super) tag: u64,
    pub(super) received: ReceivedMessage,
}

/// The signals between a subscription and its partitions. Clones are one set of signals.
#[derive(Clone, Default)]
pub(super) struct Signals {
    /// The subscription ends: nothing is begun.
    pub(super) halt: CancellationToken,
    /// The time to finish is over: what was begun is dropped.
    pub(super) overdue: CancellationToken,
    /// A partition returns messages to the queue: the subscription must end.
    pub(super) requeue: CancellationToken,
    /// The deliveries that are not acknowledged.
    pub(super) in_flight: Arc<InFlight>,
    handled: Arc<AtomicBool>,
}

impl Signals {
    /// Signals about these deliveries.
    pub(super) fn new(in_flight: Arc<InFlight>) -> Self {
        Self { in_flight, ..Self::default() }
    }

    /// Whether a partition has handled a message.
    pub(super) fn handled(&self) -> bool {
        self.handled.load(Ordering::Relaxed)
    }
}

/// Handles the deliveries of one partition, in order.
pub(super) struct Partition {
    pub(super) queue: QueueName,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) handler: Arc<dyn BatchHandler>,
    pub(super) dependencies: Dependencies,
    pub(super) max_batch: usize,
    pub(super) collect_for: Duration,
    pub(super) requeue_after: Duration,
    pub(super) acknowledger: Arc<dyn Acknowledger>,
    pub(super) status: Arc<PartitionStatus>,
    pub(super) signals: Signals,
}

impl Partition {
    pub(super) async fn run(&self, mut deliveries: mpsc::UnboundedReceiver<PendingDelivery>) {
        let mut batch = Vec::with_capacity(self.max_batch);
        loop {
            self.status.idle();
            // A unit of work that was begun before the halt is finished; what was not begun returns to the queue.
            if deliveries.recv_many(&mut batch, self.max_batch).await == 0 {
                return;
            }
            self.collect(&mut deliveries, &mut batch).await;
            if self.signals.halt.is_cancelled() || self.acknowledger.is_closed() {
                return;
            }
            self.report_redelivered(&batch);
            batch = self.handle_until_available(batch).await;
            if !batch.is_empty() {
                let left: Vec<_> = batch.iter().map(|delivery| &delivery.received).collect();
                // A stop does not wait for a store that does not respond: what was not written is kept for the next time.
                let _ = tokio::time::timeout(RELEASE_TIMEOUT, self.handler.release(self.queue, &left)).await;
                return;
            }
        }
    }

    fn report_redelivered(&self, batch: &[PendingDelivery]) {
        let redelivered = batch.iter().filter(|delivery| delivery.received.redelivered).count();
        if redelivered > 0 {
            self.observer.observe(&Report::Redelivered(self.queue, redelivered));
        }
    }

    /// Adds the messages that arrive in time, unless the subscription ends before.
    async fn collect(
        &self,
        deliveries: &mut mpsc::UnboundedReceiver<PendingDelivery>,
        batch: &mut Vec<PendingDelivery>,
    ) {
        let collected = tokio::time::sleep(self.collect_for);
        tokio::pin!(collected);
        while !self.collect_for.is_zero() && batch.len() < self.max_batch {
            tokio::select! {
                received = deliveries.recv_many(batch, self.max_batch - batch.len()) => if received == 0 { return },
                () = self.signals.halt.cancelled() => return,
                () = &mut collected => return,
            }
        }
    }

    /// Handles and acknowledges messages. During an outage they are held and tried again. Returns those that go back to the
    /// queue: after a stop, or after an outage that lasted too long.
    async fn handle_until_available(&self, mut batch: Vec<PendingDelivery>) -> Vec<PendingDelivery> {
        let mut delays = Backoff::during_outage();
        let begin = Instant::now();
        loop {
            self.status.busy();
            let stopped = self.handle(&mut batch).await;
            let (finished, left) =
                Answered::split(batch, |delivery: &mut PendingDelivery| delivery.received.take_outcome());
            self.finish(&finished).await;
            batch = left;
            match stopped {
                None if !batch.is_empty() && !self.signals.overdue.is_cancelled() => {
                    self.report_defect(&MissingAnswers {
                        questions: finished.len() + batch.len(),
                        answers: finished.len(),
                    });
                    return batch;
                }
                None => return batch,
                Some(HandleError::Missing(missing)) => {
                    self.report_defect(&missing);
                    return batch;
                }
                Some(HandleError::Unavailable(error)) => {
                    let delay = delays.next().unwrap_or_default();
                    if !self.wait_for_server(&error, begin.elapsed(), delay).await {
                        return batch;
                    }
                }
            }
        }
    }

    /// Handles the batch, unless the time to finish ends before. The messages that are finished have their outcomes.
    async fn handle(&self, batch: &mut [PendingDelivery]) -> Option<HandleError> {
        let mut received: Vec<_> = batch.iter_mut().map(|delivery| &mut delivery.received).collect();
        tokio::select! {
            handled = self.handler.handle(self.queue, &mut received) => handled.err(),
            () = self.signals.overdue.cancelled() => None,
        }
    }

    /// Logs outcomes, and acknowledges their deliveries and no others.
    async fn finish(&self, finished: &Answered<PendingDelivery, CommandOutcome>) {
        if finished.is_empty() {
            return;
        }
        self.signals.handled.store(true, Ordering::Relaxed);
        self.status.finished(finished.len());
        self.dependencies.handled(finished);
        for (delivery, outcome) in finished {
            log_outcome(self.queue, &delivery.received, outcome);
        }
        let tags: Vec<_> = finished.iter().map(|(delivery, _)| delivery.tag).collect();
        self.acknowledger.ack(&tags).await;
        finished
            .iter()
            .for_each(|(delivery, _)| self.signals.in_flight.remove(delivery.received.message.size()));
    }

    /// Waits before the next try; false if the messages return to the queue.
    async fn wait_for_server(&self, error: &ServerUnavailable, waited: Duration, delay: Duration) -> bool {
        self.dependencies.down(error);
        if waited > self.requeue_after {
            let queue = self.queue.as_str();
            warn!(
                queue,
                "server still unavailable after worker.requeue_after, returning messages to the queue"
            );
            self.requeue();
            return false;
        }
        self.signals.halt.run_until_cancelled(tokio::time::sleep(delay)).await.is_some()
    }

    /// Messages without an outcome are not acknowledged.
    fn report_defect(&self, missing: &MissingAnswers) {
        let queue = self.queue.as_str();
        error!(queue, %missing, "a defect of this program: messages have no outcome and return to the queue");
        self.requeue();
    }

    fn requeue(&self) {
        self.signals.requeue.cancel();
        self.signals.halt.cancel();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        ports::{queue::Message, routing},
        service::decode::Limits,
    };

    const PARTITIONS: usize = 1000;

    fn partition(kind: &str, body: &serde_json::Value) -> usize {
        let body = body.to_string().into_bytes();
        let message = Message {
            kind: kind.into(),
            message_id: Some("m".into()),
            body: body.into(),
            ..Message::default()
        };
        let limits = Limits { body_bytes: 1000, header_bytes: 1000 };
        let queue = routing::queue_of(kind).expect("the type has a queue");
        let received = ReceivedMessage::read(queue, message, false, limits);
        assert!(received.decoded.is_ok(), "{:?}", received.decoded);
        partition_of(&received, PARTITIONS)
    }

    #[test]
    fn messages_about_one_line_or_batch_share_a_partition() {
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

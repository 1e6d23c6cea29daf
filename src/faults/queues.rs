//! Faults of the queues: between the delivery of a message and its acknowledgement.

use std::sync::Arc;

use async_trait::async_trait;

use crate::ports::{
    error::BrokerError,
    queue::{Acknowledger, Delivery, FlowControl, QueueKind, QueueName, Queues, Subscription},
};

use super::{
    plan,
    points::{CrashPoint, SeededBug},
};

pub(super) struct FaultyQueues<Q>(pub(super) Q);

#[async_trait]
impl<Q: Queues> Queues for FaultyQueues<Q> {
    async fn subscribe(
        &self,
        queue: QueueName,
        queue_kind: QueueKind,
        prefetch: u16,
        bytes: usize,
    ) -> Result<Box<dyn Subscription>, BrokerError> {
        let inner = self.0.subscribe(queue, queue_kind, prefetch, bytes).await?;
        Ok(Box::new(FaultySubscription { inner, queue_kind }))
    }
}

struct FaultySubscription {
    inner: Box<dyn Subscription>,
    queue_kind: QueueKind,
}

#[async_trait]
impl Subscription for FaultySubscription {
    async fn next(&mut self) -> Result<Delivery, BrokerError> {
        let delivery = self.inner.next().await?;
        plan::pass(match self.queue_kind {
            QueueKind::Main => CrashPoint::WorkerDelivered,
            QueueKind::DeadLetter => CrashPoint::ArchiveBefore,
        });
        if plan::has_bug(SeededBug::AckBeforeCommit) {
            self.inner.acknowledger().ack(&[delivery.tag]).await;
        }
        Ok(delivery)
    }

    fn flow_control(&self) -> Option<Arc<dyn FlowControl>> {
        self.inner.flow_control()
    }

    fn acknowledger(&self) -> Arc<dyn Acknowledger> {
        Arc::new(FaultyAcknowledger { inner: self.inner.acknowledger(), queue_kind: self.queue_kind })
    }

    async fn close(self: Box<Self>) {
        self.inner.close().await;
    }
}

struct FaultyAcknowledger {
    inner: Arc<dyn Acknowledger>,
    queue_kind: QueueKind,
}

#[async_trait]
impl Acknowledger for FaultyAcknowledger {
    async fn ack(&self, tags: &[u64]) {
        plan::pass(match self.queue_kind {
            QueueKind::Main => CrashPoint::WorkerBeforeAck,
            QueueKind::DeadLetter => CrashPoint::ArchiveAfter,
        });
        // With this bug the deliveries are acknowledged already.
        if !plan::has_bug(SeededBug::AckBeforeCommit) {
            self.inner.ack(tags).await;
        }
    }

    fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }
}

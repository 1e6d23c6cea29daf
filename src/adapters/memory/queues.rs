//! Queues in memory.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, PoisonError},
};

use async_trait::async_trait;
use tokio::sync::{Mutex, Notify};

use crate::ports::{
    error::BrokerError,
    queue::{Acknowledger, Delivery, Message, QueueKind, QueueName, Queues, Subscription},
};

/// Queues that deliver each message once, to the subscription that asks first.
#[derive(Clone, Default)]
pub struct MemoryQueues {
    waiting: Arc<Mutex<HashMap<QueueName, VecDeque<Message>>>>,
    unsettled: Arc<std::sync::Mutex<usize>>,
    changed: Arc<Notify>,
}

impl MemoryQueues {
    /// Enqueues a message.
    pub async fn put(&self, queue: QueueName, message: Message) {
        self.waiting.lock().await.entry(queue).or_default().push_back(message);
        self.changed.notify_waiters();
    }

    /// Waits until all that was put in is settled.
    pub async fn drained(&self) {
        loop {
            let changed = self.changed.notified();
            let empty = self.waiting.lock().await.values().all(VecDeque::is_empty);
            if empty && *self.unsettled.lock().unwrap_or_else(PoisonError::into_inner) == 0 {
                return;
            }
            changed.await;
        }
    }
}

#[async_trait]
impl Queues for MemoryQueues {
    async fn subscribe(
        &self,
        queue: QueueName,
        _stage: QueueKind,
        _prefetch: u16,
        _bytes: usize,
    ) -> Result<Box<dyn Subscription>, BrokerError> {
        Ok(Box::new(MemorySubscription { queues: self.clone(), queue, last_tag: 0 }))
    }
}

struct MemorySubscription {
    queues: MemoryQueues,
    queue: QueueName,
    last_tag: u64,
}

#[async_trait]
impl Subscription for MemorySubscription {
    async fn next(&mut self) -> Result<Delivery, BrokerError> {
        loop {
            let changed = self.queues.changed.notified();
            let next = self.queues.waiting.lock().await.get_mut(&self.queue).and_then(VecDeque::pop_front);
            if let Some(message) = next {
                *self.queues.unsettled.lock().unwrap_or_else(PoisonError::into_inner) += 1;
                self.last_tag += 1;
                return Ok(Delivery { tag: self.last_tag, redelivered: false, message });
            }
            changed.await;
        }
    }

    fn acknowledger(&self) -> Arc<dyn Acknowledger> {
        Arc::new(self.queues.clone())
    }

    async fn close(self: Box<Self>) {}
}

#[async_trait]
impl Acknowledger for MemoryQueues {
    async fn ack(&self, tags: &[u64]) {
        *self.unsettled.lock().unwrap_or_else(PoisonError::into_inner) -= tags.len();
        self.changed.notify_waiters();
    }

    fn is_closed(&self) -> bool {
        false
    }
}

//! A publisher that records what it publishes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::{
    domain::{OutboxRow, PublishOutcome},
    ports::{failed_messages::DueRetry, outbox::Publisher, queue::QueueName},
};

/// A publisher that records events and retries, and delivers nothing. Clones share one record.
#[derive(Clone, Default)]
pub struct RecordingPublisher {
    record: Arc<Mutex<Record>>,
}

#[derive(Default)]
struct Record {
    events: Vec<OutboxRow>,
    retries: Vec<DueRetry>,
}

impl RecordingPublisher {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The published events, in order.
    #[must_use]
    pub fn published(&self) -> Vec<OutboxRow> {
        self.record().events.clone()
    }

    /// The published retries, in order.
    #[must_use]
    pub fn retries(&self) -> Vec<DueRetry> {
        self.record().retries.clone()
    }
}

#[async_trait]
impl Publisher for RecordingPublisher {
    async fn publish(&self, rows: &[OutboxRow]) -> Vec<PublishOutcome> {
        self.record().events.extend_from_slice(rows);
        vec![PublishOutcome::Confirmed; rows.len()]
    }

    async fn publish_retries(&self, retries: &[DueRetry]) -> Vec<PublishOutcome> {
        let exists = |retry: &&DueRetry| QueueName::ALL.iter().any(|queue| queue.as_str() == retry.queue);
        self.record().retries.extend(retries.iter().filter(exists).cloned());
        let outcome =
            |retry| if exists(&retry) { PublishOutcome::Confirmed } else { PublishOutcome::Unroutable };
        retries.iter().map(outcome).collect()
    }
}

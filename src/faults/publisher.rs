//! Faults of the publisher.

use async_trait::async_trait;

use crate::{
    domain::{OutboxRow, PublishOutcome},
    ports::{failed_messages::DueRetry, outbox::Publisher},
};

use super::{
    plan,
    points::{CrashPoint, SeededBug},
};

pub(super) struct FaultyPublisher<P>(pub(super) P);

#[async_trait]
impl<P: Publisher> Publisher for FaultyPublisher<P> {
    async fn publish(&self, rows: &[OutboxRow]) -> Vec<PublishOutcome> {
        plan::pass(CrashPoint::RelayClaimed);
        if plan::has_bug(SeededBug::RelayDeadlock) {
            std::future::pending::<()>().await;
        }
        let outcomes = self.0.publish(rows).await;
        plan::pass(CrashPoint::RelayConfirmed);
        outcomes
    }

    async fn publish_retries(&self, retries: &[DueRetry]) -> Vec<PublishOutcome> {
        plan::pass(CrashPoint::RetryClaimed);
        let outcomes = self.0.publish_retries(retries).await;
        plan::pass(CrashPoint::RetryConfirmed);
        outcomes
    }

    fn sender_context(&self, retry: &DueRetry) -> Option<String> {
        self.0.sender_context(retry)
    }

    fn is_blocked(&self) -> bool {
        self.0.is_blocked()
    }
}

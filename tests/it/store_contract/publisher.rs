//! The contract of the publisher.

use std::sync::Arc;

use allocation::{
    adapters::{
        memory::RecordingPublisher,
        rabbitmq::{RabbitConfig, RabbitPublisher},
    },
    domain::{OutboxRow, PublishOutcome},
    ports::{failed_messages::DueRetry, outbox::Publisher},
};
use lapin::options::QueuePurgeOptions;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::harness::{TestSystem, amqp_url};

/// A publisher, and the messages that have arrived.
trait Observed {
    fn publisher(&self) -> Arc<dyn Publisher>;

    /// Waits for this number of events and returns their ids in the order of arrival.
    async fn events(&self, count: usize) -> Vec<Uuid>;

    /// The number of retries in the queue `orders`.
    async fn orders(&self) -> usize;
}

impl Observed for RecordingPublisher {
    fn publisher(&self) -> Arc<dyn Publisher> {
        Arc::new(self.clone())
    }

    async fn events(&self, _count: usize) -> Vec<Uuid> {
        self.published().iter().map(|row| row.event_id).collect()
    }

    async fn orders(&self) -> usize {
        self.retries().iter().filter(|retry| retry.queue == "orders").count()
    }
}

impl Observed for TestSystem {
    fn publisher(&self) -> Arc<dyn Publisher> {
        Arc::new(RabbitPublisher::new(RabbitConfig::new(&amqp_url(), &self.namespace).unwrap()))
    }

    async fn events(&self, count: usize) -> Vec<Uuid> {
        self.events_of(count).await.iter().map(|event| event.id().parse().unwrap()).collect()
    }

    async fn orders(&self) -> usize {
        usize::try_from(self.ready("orders").await).unwrap()
    }
}

macro_rules! every_publisher {
    ($($promise:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise(&super::RecordingPublisher::default()).await;
            })+
        }
        mod rabbitmq {
            $(#[tokio::test]
            async fn $promise() {
                let system = super::TestSystem::new(stringify!($promise)).await;
                super::$promise(&system).await;
                super::purge_orders(&system).await;
                system.close().await;
            })+
        }
    };
}

every_publisher!(events_are_published_in_order_with_an_outcome_each, retries_are_published_to_their_queues);

async fn purge_orders(system: &TestSystem) {
    let orders = system.named("orders");
    system.channel().queue_purge(orders.as_str().into(), QueuePurgeOptions::default()).await.unwrap();
}

fn row(id: i64) -> OutboxRow {
    OutboxRow {
        id,
        event_id: Uuid::from_u128(u128::from(id.unsigned_abs())),
        name: "allocated".into(),
        sku: "LAMP".into(),
        sequence: id,
        body: "{}".into(),
        causation_id: "cause".into(),
        correlation_id: "request".into(),
        traceparent: None,
        tracestate: None,
        committed_at: OffsetDateTime::UNIX_EPOCH,
    }
}

fn retry(id: i64, queue: &str) -> DueRetry {
    DueRetry {
        id,
        generation: 1,
        queue: queue.into(),
        message_id: Some(format!("m{id}")),
        kind: "allocate".into(),
        body: b"{}".to_vec(),
        original: Vec::new(),
        edited: false,
        secret: Uuid::nil(),
    }
}

async fn events_are_published_in_order_with_an_outcome_each(observed: &impl Observed) {
    let publisher = observed.publisher();
    assert_eq!(publisher.publish(&[]).await, []);
    let rows: Vec<_> = (1..=250).map(row).collect();
    assert_eq!(publisher.publish(&rows).await, vec![PublishOutcome::Confirmed; 250]);
    assert_eq!(publisher.publish(&[row(251)]).await, [PublishOutcome::Confirmed]);
    let expected: Vec<_> = (1..=251).map(|id| row(id).event_id).collect();
    assert_eq!(observed.events(251).await, expected);
}

async fn retries_are_published_to_their_queues(observed: &impl Observed) {
    let publisher = observed.publisher();
    assert_eq!(publisher.publish_retries(&[]).await, []);
    let retries = [retry(1, "orders"), retry(2, "does-not-exist"), retry(3, "orders")];
    let outcomes = publisher.publish_retries(&retries).await;
    let expected = [PublishOutcome::Confirmed, PublishOutcome::Unroutable, PublishOutcome::Confirmed];
    assert_eq!(outcomes, expected);
    assert_eq!(observed.orders().await, 2);
}

//! Subscriptions on the real broker: how much they take, and what they acknowledge.

use allocation::{
    adapters::rabbitmq::{RabbitConfig, RabbitQueues},
    ports::queue::{Prefetch, QueueKind, QueueName, Queues as _, Subscription},
};
use lapin::options::QueuePurgeOptions;

use crate::harness::{SOON, TestSystem, allocate, amqp_url, wait_for};

/// A subscription to the orders of a system that holds this many of them.
async fn subscribe(
    system: &TestSystem,
    orders: u32,
    limit: u16,
    prefetch: Prefetch,
) -> Box<dyn Subscription> {
    let orders: Vec<_> = (0..orders).map(|number| allocate(&format!("o-{number}"), "LAMP", 1)).collect();
    system.sender.send_all(&orders).await;
    let queues = RabbitQueues::new(RabbitConfig::new(&amqp_url(), &system.namespace).unwrap(), limit);
    queues.subscribe(QueueName::Orders, QueueKind::Main, prefetch).await.unwrap()
}

/// Takes so many deliveries; their tags.
async fn take(subscription: &mut Box<dyn Subscription>, count: usize) -> Vec<u64> {
    let mut tags = Vec::new();
    while tags.len() < count {
        tags.push(subscription.next().await.unwrap().tag);
    }
    tags
}

/// So many messages are in the queue once the subscription is over; they are removed.
async fn assert_left(system: &TestSystem, count: u32) {
    wait_for("the rest is returned", SOON, &count, async || system.ready("orders").await).await;
    let purged =
        system.channel().queue_purge(system.named("orders").into(), QueuePurgeOptions::default()).await;
    assert_eq!(purged.unwrap(), count);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_by_one_means_that_the_broker_keeps_all_but_one() {
    let system = TestSystem::new("one_by_one_means_that_the_broker_keeps_all_but_one").await;
    let mut subscription = subscribe(&system, 3, 100, Prefetch::One).await;
    for left in [2, 1, 0] {
        let tags = take(&mut subscription, 1).await;
        assert_eq!(system.ready("orders").await, left);
        subscription.acknowledger().ack(&tags).await;
    }
    subscription.close().await;
    system.close().await;
}

/// Half of the prefetch may be finished behind an open delivery; then each is acknowledged by itself. The connection is
/// lost after that, so that the broker tells what it knows.
#[tokio::test(flavor = "multi_thread")]
async fn behind_an_old_delivery_not_more_than_half_of_the_prefetch_waits_for_its_acknowledgement() {
    let system = TestSystem::new("acknowledgements behind an old delivery").await;
    let mut subscription = subscribe(&system, 7, 10, Prefetch::Configured).await;
    let tags = take(&mut subscription, 7).await;
    for tag in &tags[1..] {
        subscription.acknowledger().ack(&[*tag]).await;
    }
    drop(subscription);
    assert_left(&system, 1).await;
    system.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_is_closed_acknowledges_what_is_finished_behind_an_old_delivery() {
    let system = TestSystem::new("acknowledgements at the end").await;
    let mut subscription = subscribe(&system, 4, 100, Prefetch::Configured).await;
    let tags = take(&mut subscription, 4).await;
    subscription.acknowledger().ack(&tags[1..]).await;
    subscription.close().await;
    assert_left(&system, 1).await;
    system.close().await;
}

//! Subscriptions on the broker: prefetch and acknowledgements.

use allocation::{
    adapters::rabbitmq::{RabbitConfig, RabbitQueues},
    ports::queue::{QueueKind, QueueName, Queues as _, Subscription},
};
use lapin::options::QueuePurgeOptions;

use crate::harness::{SOON, TestSystem, allocate, amqp_url, wait_for};

/// Sends orders, and subscribes to their queue.
async fn subscribe(system: &TestSystem, orders: u32, prefetch: u16) -> Box<dyn Subscription> {
    let orders: Vec<_> = (0..orders).map(|number| allocate(&format!("o-{number}"), "LAMP", 1)).collect();
    system.sender.send_all(&orders).await;
    let queues = RabbitQueues(RabbitConfig::new(&amqp_url(), &system.namespace).unwrap());
    queues.subscribe(QueueName::Orders, QueueKind::Main, prefetch, usize::MAX).await.unwrap()
}

/// Takes this number of deliveries and returns their tags.
async fn take(subscription: &mut Box<dyn Subscription>, count: usize) -> Vec<u64> {
    let mut tags = Vec::new();
    while tags.len() < count {
        tags.push(subscription.next().await.unwrap().tag);
    }
    tags
}

/// Waits for this number of messages in the queue after the end of the subscription, and removes them.
async fn assert_left(system: &TestSystem, count: u32) {
    wait_for("unacknowledged messages are returned", SOON, &count, async || system.ready("orders").await)
        .await;
    let purged =
        system.channel().queue_purge(system.named("orders").into(), QueuePurgeOptions::default()).await;
    assert_eq!(purged.unwrap(), count);
}

#[tokio::test(flavor = "multi_thread")]
async fn prefetch_one_delivers_one_message_at_a_time() {
    let system = TestSystem::new("prefetch_one_delivers_one_message_at_a_time").await;
    let mut subscription = subscribe(&system, 3, 1).await;
    for left in [2, 1, 0] {
        let tags = take(&mut subscription, 1).await;
        assert_eq!(system.ready("orders").await, left);
        subscription.acknowledger().ack(&tags).await;
    }
    subscription.close().await;
    system.close().await;
}

/// Finished deliveries behind an open one are acknowledged together with it. When half of the prefetch waits in this way,
/// each is acknowledged separately. The number of returned messages shows what was acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn at_most_half_of_the_prefetch_waits_for_the_acknowledgement_of_an_earlier_delivery() {
    let system =
        TestSystem::new("at_most_half_of_the_prefetch_waits_for_the_acknowledgement_of_an_earlier_delivery")
            .await;
    let mut subscription = subscribe(&system, 7, 10).await;
    let tags = take(&mut subscription, 7).await;
    for tag in &tags[1..] {
        subscription.acknowledger().ack(&[*tag]).await;
    }
    drop(subscription);
    assert_left(&system, 1).await;
    system.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_subscription_acknowledges_what_is_finished_behind_an_open_delivery() {
    let system =
        TestSystem::new("a_closed_subscription_acknowledges_what_is_finished_behind_an_open_delivery").await;
    let mut subscription = subscribe(&system, 4, 100).await;
    let tags = take(&mut subscription, 4).await;
    subscription.acknowledger().ack(&tags[1..]).await;
    subscription.close().await;
    assert_left(&system, 1).await;
    system.close().await;
}

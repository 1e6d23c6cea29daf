//! Publication of retries, with brokers that fail.

use std::time::Duration;

use allocation::domain::PublishOutcome;
use tokio::time::Instant;

use super::fakes::{OutboxCall, ScriptedOutbox, ScriptedPublisher, relay, run_for};

const SOON: Duration = Duration::from_millis(500);

#[tokio::test(start_paused = true)]
async fn an_unroutable_or_nacked_retry_is_deferred() {
    let publisher = ScriptedPublisher::new(|ids| {
        let outcome = |id: &i64| match id {
            1 => PublishOutcome::Confirmed,
            2 => PublishOutcome::Unroutable,
            _ => PublishOutcome::Nacked("full".into()),
        };
        Some(ids.iter().map(outcome).collect())
    });
    let outbox = ScriptedOutbox::of_retries(3);
    run_for(&relay(&outbox, &publisher), SOON).await;
    let expected = [
        OutboxCall::TryLead,
        OutboxCall::BecameLeader,
        OutboxCall::RetriesDeferred(vec![2], "the queue or its binding does not exist".into()),
        OutboxCall::RetriesDeferred(vec![3], "the queue is full".into()),
        OutboxCall::RetriesPublished(vec![1]),
        OutboxCall::Released,
    ];
    assert_eq!(outbox.calls(), expected);
}

/// The retries behind it are published.
#[tokio::test(start_paused = true)]
async fn a_retry_that_closes_the_channel_is_published_alone_and_rejected() {
    for (rejected, expected) in [
        (1, vec![vec![1, 2, 3], vec![1], vec![2, 3]]),
        (2, vec![vec![1, 2, 3], vec![1], vec![2, 3], vec![2], vec![3]]),
    ] {
        let publisher = ScriptedPublisher::closes_the_channel_at(rejected);
        let outbox = ScriptedOutbox::of_retries(3);
        let relay = relay(&outbox, &publisher);
        run_for(&relay, SOON).await;
        assert_eq!(publisher.published(), expected);
        assert_eq!(outbox.times(&OutboxCall::RetryRejected(rejected)).len(), 1);
        assert!(outbox.remaining().1.is_empty(), "the others are published");
        assert!(!relay.broker.is_down() && !publisher.saw_an_outage(), "the broker is available");
    }
}

/// It is the last publication before a long pause, so no later one would end a reported outage.
#[tokio::test(start_paused = true)]
async fn a_rejected_retry_is_no_outage_of_the_broker() {
    for (retries, expected) in [(1, vec![vec![1]]), (2, vec![vec![1, 2], vec![1], vec![2]])] {
        let publisher = ScriptedPublisher::closes_the_channel_at(retries);
        let outbox = ScriptedOutbox::of_retries(retries);
        let relay = relay(&outbox, &publisher);
        run_for(&relay, SOON).await;
        assert_eq!(publisher.published(), expected);
        assert_eq!(outbox.times(&OutboxCall::RetryRejected(retries)).len(), 1);
        assert!(!relay.broker.is_down(), "{retries} retries");
    }
}

#[tokio::test(start_paused = true)]
async fn retries_wait_while_the_broker_is_unavailable() {
    let publisher = ScriptedPublisher::new(|ids| Some(vec![PublishOutcome::Unknown("no".into()); ids.len()]));
    let outbox = ScriptedOutbox::of_retries(3);
    let relay = relay(&outbox, &publisher);
    run_for(&relay, Duration::from_secs(30)).await;
    assert_eq!(outbox.calls(), [OutboxCall::TryLead, OutboxCall::BecameLeader, OutboxCall::Released]);
    assert!((10..60).contains(&publisher.published().len()), "{}", publisher.published().len());
    assert!(relay.broker.is_down());
}

#[tokio::test(start_paused = true)]
async fn a_retry_is_published_when_it_is_due() {
    let publisher = ScriptedPublisher::confirms();
    let outbox = ScriptedOutbox::of_retries(1);
    let begin = Instant::now();
    outbox.set_due_in(Duration::from_millis(2300));
    run_for(&relay(&outbox, &publisher), Duration::from_secs(5)).await;
    let times: Vec<_> = publisher.times().iter().map(|time| (*time - begin).as_millis() / 10).collect();
    assert_eq!(times, [230]);
}

#[tokio::test(start_paused = true)]
async fn a_leader_polls_every_second_although_the_next_retry_is_due_in_an_hour() {
    let outbox = ScriptedOutbox::of_retries(1);
    outbox.set_due_in(Duration::from_hours(1));
    run_for(&relay(&outbox, &ScriptedPublisher::confirms()), Duration::from_millis(10_500)).await;
    assert_eq!(outbox.polls(), 11);
}

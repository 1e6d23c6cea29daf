//! Retries on their way back to their queues.

use std::time::Duration;

use allocation::ports::outbox::PublishOutcome;
use tokio::time::Instant;

use super::fakes::{Note, ScriptedOutbox, ScriptedPublisher, relay, run_for};

const SOON: Duration = Duration::from_millis(500);

#[tokio::test(start_paused = true)]
async fn a_retry_that_no_queue_took_or_a_full_one_refused_is_held() {
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
        Note::Asked,
        Note::Led,
        Note::RetriesHeld(vec![2], "there is no such queue".into()),
        Note::RetriesHeld(vec![3], "its queue is full".into()),
        Note::RetriesPublished(vec![1]),
        Note::Released,
    ];
    assert_eq!(outbox.notes(), expected);
}

/// Behind it no retry would ever leave.
#[tokio::test(start_paused = true)]
async fn a_retry_that_closes_the_channel_is_tried_alone_and_refused() {
    for (culprit, expected) in [
        (1, vec![vec![1, 2, 3], vec![1], vec![2, 3]]),
        (2, vec![vec![1, 2, 3], vec![1], vec![2, 3], vec![2], vec![3]]),
    ] {
        let publisher = ScriptedPublisher::closes_the_channel_over(culprit);
        let outbox = ScriptedOutbox::of_retries(3);
        let relay = relay(&outbox, &publisher);
        run_for(&relay, SOON).await;
        assert_eq!(publisher.published(), expected);
        assert_eq!(outbox.times(&Note::RetryRefused(culprit)).len(), 1);
        assert!(outbox.left().1.is_empty(), "the others have left");
        assert!(!relay.broker.is_down() && !publisher.saw_an_outage(), "nothing is wrong with the broker");
    }
}

/// The last one before a long pause: no later publication would end the outage.
#[tokio::test(start_paused = true)]
async fn a_retry_that_cannot_be_published_is_no_outage_of_the_broker() {
    let publisher = ScriptedPublisher::closes_the_channel_over(2);
    let outbox = ScriptedOutbox::of_retries(2);
    let relay = relay(&outbox, &publisher);
    run_for(&relay, SOON).await;
    assert_eq!(publisher.published(), [vec![1, 2], vec![1], vec![2]]);
    assert!(!relay.broker.is_down());
}

#[tokio::test(start_paused = true)]
async fn while_the_broker_is_away_retries_wait() {
    let publisher = ScriptedPublisher::new(|ids| Some(vec![PublishOutcome::Unknown("no".into()); ids.len()]));
    let outbox = ScriptedOutbox::of_retries(3);
    let relay = relay(&outbox, &publisher);
    run_for(&relay, Duration::from_secs(30)).await;
    assert_eq!(outbox.notes(), [Note::Asked, Note::Led, Note::Released]);
    assert!((10..60).contains(&publisher.published().len()), "{}", publisher.published().len());
    assert!(relay.broker.is_down());
}

#[tokio::test(start_paused = true)]
async fn a_retry_leaves_when_it_is_due() {
    let publisher = ScriptedPublisher::confirms();
    let outbox = ScriptedOutbox::of_retries(1);
    let begin = Instant::now();
    outbox.due_in(Duration::from_millis(2300));
    run_for(&relay(&outbox, &publisher), Duration::from_secs(5)).await;
    let times: Vec<_> = publisher.times().iter().map(|time| (*time - begin).as_millis() / 10).collect();
    assert_eq!(times, [230]);
}

#[tokio::test(start_paused = true)]
async fn a_leader_looks_every_second_although_the_next_retry_is_due_in_an_hour() {
    let outbox = ScriptedOutbox::of_retries(1);
    outbox.due_in(Duration::from_hours(1));
    run_for(&relay(&outbox, &ScriptedPublisher::confirms()), Duration::from_millis(10_500)).await;
    assert_eq!(outbox.looked(), 11);
}

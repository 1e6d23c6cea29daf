//! Publication of events, with brokers and sessions that fail.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use allocation::{
    domain::PublishOutcome,
    ports::{error::StoreError, outbox::Retention},
};
use tokio::time::Instant;

use super::fakes::{
    CapturedLog, LosesOutcomes, OutboxCall, ScriptedOutbox, ScriptedPublisher, broken, conflict, relay,
    run_for, unavailable,
};

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

const THREE: [(&str, &str); 3] = [("allocated", "a"), ("allocated", "b"), ("allocated", "c")];

#[tokio::test(start_paused = true)]
async fn an_event_that_closes_the_channel_is_published_alone_and_parked() {
    let (outbox, publisher) =
        (ScriptedOutbox::of_events(&THREE), ScriptedPublisher::closes_the_channel_at(2));
    let relay = relay(&outbox, &publisher);
    run_for(&relay, seconds(0.5)).await;
    assert_eq!(publisher.published(), [vec![1, 2, 3], vec![1], vec![2, 3], vec![2], vec![3]]);
    let expected = [
        OutboxCall::TryLead,
        OutboxCall::BecameLeader,
        OutboxCall::Removed(vec![1], 0),
        OutboxCall::Parked(2),
        OutboxCall::Removed(vec![3], 0),
        OutboxCall::Released,
    ];
    assert_eq!(outbox.calls(), expected);
    assert!(!relay.broker.is_down() && !publisher.saw_an_outage(), "the broker is available");
}

#[tokio::test(start_paused = true)]
async fn an_unavailable_broker_is_tried_after_growing_pauses() {
    let unavailable = Arc::new(AtomicBool::new(true));
    let is_unavailable = unavailable.clone();
    let publisher = ScriptedPublisher::new(move |ids| {
        let unknown = || PublishOutcome::Unknown("no connection".into());
        let unavailable = is_unavailable.load(Ordering::Relaxed);
        Some(vec![if unavailable { unknown() } else { PublishOutcome::Confirmed }; ids.len()])
    });
    let outbox = ScriptedOutbox::of_events(&THREE);
    let relay = relay(&outbox, &publisher);
    run_for(&relay, seconds(30.0)).await;
    assert!(relay.broker.is_down());
    assert!((10..60).contains(&publisher.times().len()), "{} tries", publisher.times().len());
    assert_eq!(outbox.remaining().0, [1, 2, 3]);
    unavailable.store(false, Ordering::Relaxed);
    run_for(&relay, seconds(3.0)).await;
    assert!(outbox.remaining().0.is_empty());
    assert!(!relay.broker.is_down());
}

/// What is published and cannot be removed would be published again.
#[tokio::test(start_paused = true)]
async fn nothing_is_published_while_the_outbox_accepts_no_writes() {
    let (outbox, publisher) = (ScriptedOutbox::of_events(&THREE), ScriptedPublisher::confirms());
    let relay = relay(&outbox, &publisher);
    outbox.set_unwritable(Some(unavailable()));
    run_for(&relay, seconds(30.0)).await;
    assert!(relay.database.is_down() && publisher.published().is_empty());
    outbox.set_unwritable(None);
    run_for(&relay, seconds(3.0)).await;
    assert!(!relay.database.is_down());
    assert_eq!(publisher.published(), [vec![1, 2, 3]]);
}

/// A standby only reads.
#[tokio::test(start_paused = true)]
async fn a_standby_ends_an_outage_only_after_a_write() {
    let (outbox, publisher) = (ScriptedOutbox::default(), ScriptedPublisher::confirms());
    let relay = relay(&outbox, &publisher);
    outbox.set_unwritable(Some(unavailable()));
    run_for(&relay, seconds(3.0)).await;
    outbox.set_other_leader(true);
    run_for(&relay, seconds(10.0)).await;
    assert!(relay.database.is_down(), "the standby was answered, and has written nothing");
    outbox.set_unwritable(None);
    run_for(&relay, seconds(3.0)).await;
    assert!(!relay.database.is_down());
}

/// Without an outcome for each message none can be attributed: no event is removed, no retry is marked.
#[tokio::test(start_paused = true)]
async fn nothing_is_removed_or_marked_when_outcomes_are_missing() {
    for outbox in [ScriptedOutbox::of_events(&THREE), ScriptedOutbox::of_retries(3)] {
        let log = CapturedLog::start();
        let publisher = ScriptedPublisher::confirms();
        let mut relay = relay(&outbox, &publisher);
        relay.publisher = Arc::new(LosesOutcomes(publisher.clone()));
        run_for(&relay, seconds(30.0)).await;
        assert_eq!(outbox.calls(), [OutboxCall::TryLead, OutboxCall::BecameLeader, OutboxCall::Released]);
        assert!(log.contains("ERROR", "publisher lost outcomes"));
        assert!((10..60).contains(&publisher.times().len()), "{} tries", publisher.times().len());
        relay.publisher = Arc::new(publisher);
        run_for(&relay, seconds(3.0)).await;
        assert_eq!(outbox.remaining(), (vec![], vec![]), "everything is published after the defect is fixed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_lost_its_session_drops_its_publication() {
    let first = AtomicBool::new(true);
    let publisher = ScriptedPublisher::new(move |ids| {
        let hangs = first.swap(false, Ordering::Relaxed);
        (!hangs).then(|| vec![PublishOutcome::Confirmed; ids.len()])
    });
    let outbox = ScriptedOutbox::of_events(&THREE);
    outbox.answer_polls([Ok(()), Ok(()), Err(unavailable())]);
    run_for(&relay(&outbox, &publisher), seconds(10.0)).await;
    assert_eq!(publisher.dropped(), 1);
    let expected = [
        OutboxCall::TryLead,
        OutboxCall::BecameLeader,
        OutboxCall::TryLead,
        OutboxCall::BecameLeader,
        OutboxCall::Removed(vec![1, 2, 3], 0),
        OutboxCall::Released,
    ];
    assert_eq!(outbox.calls(), expected, "the lost session is not released, the next one is");
}

/// A leader that does not poll is considered unresponsive, and replaced.
#[tokio::test(start_paused = true)]
async fn a_leader_polls_its_session_while_it_waits_for_the_broker() {
    let publisher = ScriptedPublisher::new(|_| None);
    let outbox = ScriptedOutbox::of_events(&THREE);
    let relay = relay(&outbox, &publisher);
    let _ = tokio::time::timeout(seconds(10.5), run_for(&relay, seconds(60.0))).await;
    assert_eq!(outbox.polls(), 1 + 10);
    assert_eq!(publisher.published().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn leadership_survives_a_conflict_and_no_other_error() {
    for (error, sessions) in [(conflict(), 1), (unavailable(), 2), (broken(), 2)] {
        let outbox = ScriptedOutbox::of_events(&THREE);
        outbox.answer_polls([Err(error.clone())]);
        run_for(&relay(&outbox, &ScriptedPublisher::confirms()), seconds(3.0)).await;
        assert_eq!(outbox.times(&OutboxCall::BecameLeader).len(), sessions, "{error}");
        assert_eq!(outbox.times(&OutboxCall::Released).len(), 1, "{error}");
        assert!(outbox.remaining().0.is_empty(), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_standby_polls_every_second_and_becomes_leader_as_soon_as_it_can() {
    let outbox = ScriptedOutbox::of_events(&THREE);
    outbox.set_other_leader(true);
    let publisher = ScriptedPublisher::confirms();
    let relay = relay(&outbox, &publisher);
    let begin = Instant::now();
    let other = async {
        tokio::time::sleep(seconds(5.5)).await;
        outbox.set_other_leader(false);
    };
    tokio::join!(run_for(&relay, seconds(10.0)), other);
    let tries = outbox.times(&OutboxCall::TryLead);
    let tries: Vec<_> = tries.iter().map(|time| (*time - begin).as_secs()).collect();
    assert_eq!(tries, [0, 0, 1, 2, 3, 4, 5, 6], "the second is due to the wakeup of the earlier commit");
    assert_eq!(publisher.published(), [[1, 2, 3]]);
    assert_eq!(outbox.calls().last(), Some(&OutboxCall::Released));
}

#[tokio::test(start_paused = true)]
async fn an_idle_leader_polls_every_second() {
    let outbox = ScriptedOutbox::default();
    run_for(&relay(&outbox, &ScriptedPublisher::confirms()), seconds(10.5)).await;
    assert_eq!(outbox.polls(), 11);
}

#[tokio::test(start_paused = true)]
async fn expired_rows_are_purged_again_soon_while_there_are_many_and_an_error_ends_nothing() {
    let outbox = ScriptedOutbox::default();
    outbox.answer_purges([Ok(true), Ok(true), Ok(false), Err(StoreError::Failed("no".into())), Ok(false)]);
    let mut relay = relay(&outbox, &ScriptedPublisher::confirms());
    run_for(&relay, seconds(200.0)).await;
    let gaps = |times: &[Instant]| -> Vec<u64> {
        times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect()
    };
    assert_eq!(gaps(&outbox.times(&OutboxCall::Purged)), [1, 1, 60, 60, 60]);
    assert_eq!(outbox.times(&OutboxCall::BecameLeader).len(), 1);
    let outbox = ScriptedOutbox::default();
    relay.outbox = Arc::new(outbox.clone());
    relay.retention = Retention {
        inbox: Duration::from_hours(1),
        failures: seconds(5.0),
        published: Duration::from_hours(1),
    };
    run_for(&relay, seconds(16.0)).await;
    let purged = gaps(&outbox.times(&OutboxCall::Purged));
    assert_eq!(purged, [5, 5, 5], "with a retention of 5 s, every 5 s");
}

fn full_queue() -> PublishOutcome {
    PublishOutcome::Nacked("full".into())
}

/// Nacks events with these ids in the first publications.
fn full_for(nacked: &'static [i64], publications: usize) -> ScriptedPublisher {
    let tries = AtomicUsize::new(0);
    ScriptedPublisher::new(move |ids| {
        let full = tries.fetch_add(1, Ordering::Relaxed) < publications;
        let outcome = |id| if full && nacked.contains(id) { full_queue() } else { PublishOutcome::Confirmed };
        Some(ids.iter().map(outcome).collect())
    })
}

#[tokio::test(start_paused = true)]
async fn a_nacked_event_delays_its_own_sku_and_is_tried_after_growing_pauses() {
    let events = [("allocated", "a"), ("deallocated", "a"), ("out_of_stock", "b")];
    let (outbox, publisher) = (ScriptedOutbox::of_events(&events), full_for(&[1], 4));
    run_for(&relay(&outbox, &publisher), seconds(30.0)).await;
    assert_eq!(publisher.published(), [vec![1, 2, 3], vec![1], vec![1], vec![1], vec![1], vec![2]]);
    let gaps: Vec<_> =
        publisher.times().windows(2).map(|pair| (pair[1] - pair[0]).as_millis() / 100 * 100).collect();
    assert_eq!(gaps, [500, 1000, 2000, 4000, 0]);
    assert!(outbox.remaining().0.is_empty());
}

/// Two events are nacked; then one of them is confirmed, and only the other one remains.
#[tokio::test(start_paused = true)]
async fn a_relay_that_has_only_throttled_events_waits_for_their_next_try() {
    let events = [("allocated", "a"), ("out_of_stock", "b")];
    let outbox = ScriptedOutbox::of_events(&events);
    let tries = AtomicUsize::new(0);
    let publisher = ScriptedPublisher::new(move |ids| {
        let first = tries.fetch_add(1, Ordering::Relaxed) == 0;
        let outcome = |id: &i64| if first || *id == 1 { full_queue() } else { PublishOutcome::Confirmed };
        Some(ids.iter().map(outcome).collect())
    });
    run_for(&relay(&outbox, &publisher), seconds(60.0)).await;
    assert_eq!(outbox.remaining().0, [1]);
    assert!(outbox.polls() < 100, "{} polls in a minute", outbox.polls());
}

/// Every half minute an event of another SKU is committed.
#[tokio::test(start_paused = true)]
async fn throttled_events_and_deferred_retries_do_not_delay_other_events() {
    for outbox in [ScriptedOutbox::of_events(&[("allocated", "a")]), ScriptedOutbox::of_retries(1)] {
        let publisher = full_for(&[1], usize::MAX);
        let relay = relay(&outbox, &publisher);
        let commits = async {
            for _ in 0..40 {
                tokio::time::sleep(seconds(32.5)).await;
                outbox.commit("out_of_stock", "b");
                tokio::time::sleep(Duration::from_millis(5)).await;
                let remaining = outbox.remaining().0;
                assert!(remaining.iter().all(|id| *id == 1), "{:?}", publisher.published().last());
            }
        };
        tokio::join!(run_for(&relay, seconds(1310.0)), commits);
    }
}

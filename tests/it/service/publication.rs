//! Events on their way out, with brokers and sessions that fail.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use allocation::ports::{
    error::StoreError,
    outbox::{PublishOutcome, Retention},
};
use tokio::time::Instant;

use super::fakes::{Note, ScriptedOutbox, ScriptedPublisher, broken, conflict, relay, run_for, unavailable};

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

const THREE: [(&str, &str); 3] = [("allocated", "a"), ("allocated", "b"), ("allocated", "c")];

#[tokio::test(start_paused = true)]
async fn an_event_that_closes_the_channel_is_tried_alone_and_set_aside() {
    let (outbox, publisher) =
        (ScriptedOutbox::of_events(&THREE), ScriptedPublisher::closes_the_channel_over(2));
    let relay = relay(&outbox, &publisher);
    run_for(&relay, seconds(0.5)).await;
    assert_eq!(publisher.published(), [vec![1, 2, 3], vec![1], vec![2, 3], vec![2], vec![3]]);
    let expected = [
        Note::Asked,
        Note::Led,
        Note::Removed(vec![1], 0),
        Note::SetAside(2),
        Note::Removed(vec![3], 0),
        Note::Released,
    ];
    assert_eq!(outbox.notes(), expected);
    assert!(!relay.broker.is_down() && !publisher.saw_an_outage(), "nothing is wrong with the broker");
}

#[tokio::test(start_paused = true)]
async fn while_the_broker_is_away_it_is_asked_less_and_less_often() {
    let away = Arc::new(AtomicBool::new(true));
    let is_away = away.clone();
    let publisher = ScriptedPublisher::new(move |ids| {
        let unknown = || PublishOutcome::Unknown("no connection".into());
        let one = if is_away.load(Ordering::Relaxed) { unknown() } else { PublishOutcome::Confirmed };
        Some(vec![one; ids.len()])
    });
    let outbox = ScriptedOutbox::of_events(&THREE);
    let relay = relay(&outbox, &publisher);
    run_for(&relay, seconds(30.0)).await;
    assert!(relay.broker.is_down());
    assert!((10..60).contains(&publisher.times().len()), "{} tries", publisher.times().len());
    assert_eq!(outbox.left().0, [1, 2, 3]);
    away.store(false, Ordering::Relaxed);
    run_for(&relay, seconds(3.0)).await;
    assert!(outbox.left().0.is_empty());
    assert!(!relay.broker.is_down());
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_lost_its_session_gives_up_its_publication() {
    let first = AtomicBool::new(true);
    let publisher = ScriptedPublisher::new(move |ids| {
        let hangs = first.swap(false, Ordering::Relaxed);
        (!hangs).then(|| vec![PublishOutcome::Confirmed; ids.len()])
    });
    let outbox = ScriptedOutbox::of_events(&THREE);
    outbox.looks([Ok(()), Ok(()), Err(unavailable())]);
    run_for(&relay(&outbox, &publisher), seconds(10.0)).await;
    assert_eq!(publisher.given_up(), 1);
    let expected =
        [Note::Asked, Note::Led, Note::Asked, Note::Led, Note::Removed(vec![1, 2, 3], 0), Note::Released];
    assert_eq!(outbox.notes(), expected, "the lost lead is not released, the next one is");
}

/// One that does not is taken for frozen, and replaced.
#[tokio::test(start_paused = true)]
async fn a_leader_shows_itself_alive_while_it_waits_for_the_broker() {
    let publisher = ScriptedPublisher::new(|_| None);
    let outbox = ScriptedOutbox::of_events(&THREE);
    let relay = relay(&outbox, &publisher);
    let _ = tokio::time::timeout(seconds(10.5), run_for(&relay, seconds(60.0))).await;
    assert_eq!(outbox.looked(), 1 + 10);
    assert_eq!(publisher.published().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_conflict_does_not_cost_the_lead_and_any_other_error_does() {
    for (error, leads) in [(conflict(), 1), (unavailable(), 2), (broken(), 2)] {
        let outbox = ScriptedOutbox::of_events(&THREE);
        outbox.looks([Err(error.clone())]);
        run_for(&relay(&outbox, &ScriptedPublisher::confirms()), seconds(3.0)).await;
        assert_eq!(outbox.times(&Note::Led).len(), leads, "{error}");
        assert_eq!(outbox.times(&Note::Released).len(), 1, "{error}");
        assert!(outbox.left().0.is_empty(), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_standby_looks_every_second_and_leads_as_soon_as_it_can() {
    let outbox = ScriptedOutbox::of_events(&THREE);
    outbox.held_by_other(true);
    let publisher = ScriptedPublisher::confirms();
    let relay = relay(&outbox, &publisher);
    let begin = Instant::now();
    let other = async {
        tokio::time::sleep(seconds(5.5)).await;
        outbox.held_by_other(false);
    };
    tokio::join!(run_for(&relay, seconds(10.0)), other);
    let asked: Vec<_> = outbox.times(&Note::Asked).iter().map(|time| (*time - begin).as_secs()).collect();
    assert_eq!(asked, [0, 0, 1, 2, 3, 4, 5, 6], "once more after the hint that was given before");
    assert_eq!(publisher.published(), [[1, 2, 3]]);
    assert_eq!(outbox.notes().last(), Some(&Note::Released));
}

#[tokio::test(start_paused = true)]
async fn an_idle_leader_looks_every_second() {
    let outbox = ScriptedOutbox::default();
    run_for(&relay(&outbox, &ScriptedPublisher::confirms()), seconds(10.5)).await;
    assert_eq!(outbox.looked(), 11);
}

#[tokio::test(start_paused = true)]
async fn old_rows_are_swept_soon_again_while_there_are_many_and_a_failure_costs_nothing() {
    let outbox = ScriptedOutbox::default();
    outbox.sweeps([Ok(true), Ok(true), Ok(false), Err(StoreError::Failed("no".into())), Ok(false)]);
    let mut relay = relay(&outbox, &ScriptedPublisher::confirms());
    run_for(&relay, seconds(200.0)).await;
    let gaps = |times: &[Instant]| -> Vec<u64> {
        times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect()
    };
    assert_eq!(gaps(&outbox.times(&Note::Swept)), [1, 1, 60, 60, 60]);
    assert_eq!(outbox.times(&Note::Led).len(), 1);
    let outbox = ScriptedOutbox::default();
    relay.outbox = Arc::new(outbox.clone());
    relay.retention = Retention { inbox: Duration::from_hours(1), failures: seconds(5.0) };
    run_for(&relay, seconds(16.0)).await;
    assert_eq!(gaps(&outbox.times(&Note::Swept)), [5, 5, 5], "what is kept for 5 s is swept every 5 s");
}

fn full_queue() -> PublishOutcome {
    PublishOutcome::Nacked("full".into())
}

/// Refuses some events until the test says otherwise.
fn full_for(refused: &'static [i64], until: usize) -> ScriptedPublisher {
    let tries = AtomicUsize::new(0);
    ScriptedPublisher::new(move |ids| {
        let full = tries.fetch_add(1, Ordering::Relaxed) < until;
        let nacked = |id| full && refused.contains(id);
        Some(ids.iter().map(|id| if nacked(id) { full_queue() } else { PublishOutcome::Confirmed }).collect())
    })
}

#[tokio::test(start_paused = true)]
async fn a_refused_event_holds_up_its_own_sku_and_is_tried_after_growing_pauses() {
    let events = [("allocated", "a"), ("deallocated", "a"), ("out_of_stock", "b")];
    let (outbox, publisher) = (ScriptedOutbox::of_events(&events), full_for(&[1], 4));
    run_for(&relay(&outbox, &publisher), seconds(30.0)).await;
    assert_eq!(publisher.published(), [vec![1, 2, 3], vec![1], vec![1], vec![1], vec![1], vec![2]]);
    let gaps: Vec<_> =
        publisher.times().windows(2).map(|pair| (pair[1] - pair[0]).as_millis() / 100 * 100).collect();
    assert_eq!(gaps, [500, 1000, 2000, 4000, 0]);
    assert!(outbox.left().0.is_empty());
}

/// Two names are refused; then one is taken, and all that is left is of the other.
#[tokio::test(start_paused = true)]
async fn a_relay_that_has_only_refused_events_left_waits_for_their_time() {
    let events = [("allocated", "a"), ("out_of_stock", "b")];
    let outbox = ScriptedOutbox::of_events(&events);
    let tries = AtomicUsize::new(0);
    let publisher = ScriptedPublisher::new(move |ids| {
        let first = tries.fetch_add(1, Ordering::Relaxed) == 0;
        Some(
            ids.iter()
                .map(|id| if first || *id == 1 { full_queue() } else { PublishOutcome::Confirmed })
                .collect(),
        )
    });
    run_for(&relay(&outbox, &publisher), seconds(60.0)).await;
    assert_eq!(outbox.left().0, [1]);
    assert!(outbox.looked() < 100, "looked {} times in a minute", outbox.looked());
}

/// An event is committed now and then, between refusals and retries that are held.
#[tokio::test(start_paused = true)]
async fn an_event_leaves_at_once_although_others_are_refused_and_retries_are_held() {
    for outbox in [ScriptedOutbox::of_events(&[("allocated", "a")]), ScriptedOutbox::of_retries(1)] {
        let publisher = ScriptedPublisher::new(|ids| {
            Some(
                ids.iter()
                    .map(|id| if *id == 1 { full_queue() } else { PublishOutcome::Confirmed })
                    .collect(),
            )
        });
        let relay = relay(&outbox, &publisher);
        let commit_signal = async {
            for _ in 0..40 {
                tokio::time::sleep(seconds(32.5)).await;
                outbox.commit("out_of_stock", "b");
                tokio::time::sleep(Duration::from_millis(5)).await;
                assert!(outbox.left().0.iter().all(|id| *id == 1), "{:?}", publisher.published().last());
            }
        };
        tokio::join!(run_for(&relay, seconds(1310.0)), commit_signal);
    }
}

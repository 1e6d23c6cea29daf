//! A trial beside workers: neither waits long for the other.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use allocation::service::trial::{TrialOptions, Verdict};
use sqlx::{
    Connection as _, PgConnection,
    postgres::{PgListener, PgPool},
};

use crate::harness::{HandleAll as _, allocate, bus, command, queue_of};

use super::world::World;

const OPTIONS: TrialOptions = TrialOptions { even_overtaken: false, even_if_it_crashes: false };
/// The longest time that a worker may wait for a trial.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// A session with open locks.
async fn locking(world: &World, statement: &str) -> PgConnection {
    let mut session = PgConnection::connect(&world.db.url()).await.unwrap();
    sqlx::raw_sql(&format!("begin; {statement}")).execute(&mut session).await.unwrap();
    session
}

/// Handles commands about LAMP until `done`, and returns the longest time that one took.
async fn work(world: &World, done: Arc<AtomicBool>) -> (usize, Duration) {
    let bus = bus(world.db.store());
    let (mut handled, mut longest) = (0, Duration::ZERO);
    while !done.load(Ordering::Relaxed) {
        let line = allocate(&format!("worker-{handled}"), "LAMP", 1);
        let begin = Instant::now();
        let mut messages = [command(&line.message_id, line.kind, &line.body)];
        let outcomes = bus.handle_all(queue_of(&line), &mut messages).await.unwrap();
        assert!(
            matches!(outcomes[..], [allocation::service::outcome::CommandOutcome::Handled]),
            "{outcomes:?}"
        );
        longest = longest.max(begin.elapsed());
        handled += 1;
    }
    (handled, longest)
}

#[tokio::test]
async fn a_message_whose_product_is_locked_is_busy_and_the_others_are_tried() {
    let world = World::new().await;
    let lamp = world.dead_command(&allocate("o", "LAMP", 1), "rejected").await;
    let vase = world.dead_command(&allocate("o", "VASE", 1), "rejected").await;
    for lock in [
        "select from products where sku = 'VASE' for update",
        "select from batches where sku = 'VASE' for update",
        "insert into inbox (queue, message_id, fingerprint) select queue, message_id, fingerprint from failed_messages where type = 'allocate' order by id desc limit 1",
    ] {
        let session = locking(&world, lock).await;
        let begin = Instant::now();
        let reports = world.tried(&[lamp, vase], OPTIONS).await;
        let took = begin.elapsed();
        assert_eq!([reports[0].would, reports[1].would], [Verdict::Succeed, Verdict::Busy], "{lock}");
        assert!(reports[1].error.as_deref().unwrap().contains("lock"), "{:?}", reports[1].error);
        assert!((Duration::from_secs(1)..Duration::from_secs(5)).contains(&took), "{lock}: {took:?}");
        drop(session);
    }
}

#[tokio::test]
async fn a_lock_that_is_released_in_time_only_delays_a_trial() {
    let world = World::new().await;
    let lamp = world.dead_command(&allocate("o", "LAMP", 1), "rejected").await;
    let mut session = locking(&world, "select from products for update").await;
    let release = async {
        world.db.wait_until_blocked(1).await;
        sqlx::raw_sql("commit").execute(&mut session).await.unwrap();
    };
    let (trial, ids) = (world.trial(), [lamp]);
    let (reports, ()) = tokio::join!(trial.run(&ids, OPTIONS), release);
    let reports = reports.unwrap();
    assert_eq!(reports[0].would, Verdict::Succeed);
}

/// A trial that waits for one product holds no lock on another one meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_waits_at_most_a_second_for_a_trial() {
    let world = World::new().await;
    let mut ids = Vec::new();
    for n in 0..100 {
        ids.push(world.dead_command(&allocate(&format!("new-{n}"), "LAMP", 1), "rejected").await);
    }
    ids.push(world.dead_command(&allocate("o", "VASE", 1), "rejected").await);
    let locked = locking(&world, "select from products where sku = 'VASE' for update").await;
    let done = Arc::new(AtomicBool::new(false));
    let trials = async {
        for _ in 0..5 {
            let reports = world.trial().run(&ids, OPTIONS).await.unwrap();
            let succeed = reports.iter().filter(|report| report.would == Verdict::Succeed).count();
            assert_eq!(succeed, 100);
            assert_eq!(reports[100].would, Verdict::Busy);
        }
        done.store(true, Ordering::Relaxed);
    };
    let ((handled, longest), ()) = tokio::join!(work(&world, done.clone()), trials);
    println!("{handled} commands beside five trials, the longest took {longest:?}");
    assert!(handled > 5, "{handled} commands were handled");
    assert!(longest < LONGEST_WAIT, "a command took {longest:?}");
    assert_eq!(world.db.count("select count(*) from failed_attempts").await, 0);
    drop(locked);
}

/// Commits signal the relay by a notification.
#[tokio::test]
async fn a_trial_notifies_no_relay() {
    let world = World::new().await;
    let line = world.dead_command(&allocate("o", "LAMP", 1), "rejected").await;
    let pool = PgPool::connect(&world.db.url()).await.unwrap();
    let mut listener = PgListener::connect_with(&pool).await.unwrap();
    listener.listen("allocation_outbox").await.unwrap();
    assert_eq!(world.tried(&[line], OPTIONS).await[0].would, Verdict::Succeed);
    world.db.execute("select pg_notify('allocation_outbox', 'from the test')").await;
    assert_eq!(listener.recv().await.unwrap().payload(), "from the test");
}

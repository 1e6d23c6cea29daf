//! Duplicates that two processes handle at the same time.

use crate::harness::{TestSystem, allocate, create_batch};

/// The commit of every tenth message takes up to 0.3 s.
const SLOW_COMMITS: &str = "create function wait_at_commit() returns trigger language plpgsql as $$
     begin perform pg_sleep(random() * 0.3); return null; end $$;
     create constraint trigger slow_commit after insert on inbox deferrable initially deferred
     for each row when (right(new.message_id, 1) = '7') execute function wait_at_commit()";

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_in_two_processes_have_one_effect_although_commits_are_slow() {
    let system =
        TestSystem::new("duplicates_in_two_processes_have_one_effect_although_commits_are_slow").await;
    let workers = [system.worker(), system.worker()];
    system.sender.send(&create_batch("b-1", "LAMP", 1000)).await;
    system.wait_handled(1).await;
    sqlx::raw_sql(SLOW_COMMITS).execute(&system.pool).await.unwrap();
    let lines: Vec<_> =
        (0..200).map(|n| allocate(&format!("o-{n}"), "LAMP", 1).with_id(&format!("m{n}"))).collect();
    let three_times: Vec<_> = (0..3).flat_map(|_| lines.iter().cloned()).collect();
    system.sender.send_all(&three_times).await;
    let events = system.settled(201).await;
    assert_eq!(events.len(), 200);
    assert_eq!(system.count("select allocated::bigint from batches").await, 200);
    // A command that waits too long for the rows of the other process is postponed, which is no failed attempt.
    assert_eq!(system.count("select count(*) from failed_messages where attempts > 0").await, 0);
    system.close_after(workers).await;
}

//! Attempts and the delays between them.

use std::time::Duration;

use serde_json::json;

use crate::harness::{DRAINS_WITHIN, TestSystem, allocate, create_batch, wait_for, wait_until};

use super::{RESOLVED, all_of, dead, dead_letters};

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_command_is_retried_and_then_resolved() {
    let system = TestSystem::new("a_rejected_command_is_retried_and_then_resolved").await;
    let worker = system.worker_with(&[("ALLOCATION__RETRY__INITIAL_INTERVAL", "300ms")]);
    system.sender.send(&allocate("o-1", "LAMP", 2)).await;
    let attempts = "select coalesce(max(attempts), 0)::bigint from failed_messages where status = 'retrying'";
    let failed_twice = async || system.count(attempts).await >= 2;
    wait_until("the command has failed twice", Duration::from_secs(20), failed_twice).await;

    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    system.settled(2).await;
    assert_eq!(system.count(RESOLVED).await, 1);
    assert_eq!(system.allocated_lines().await.len(), 1);
    let attempts: Vec<(i32, String, String)> =
        sqlx::query_as("select attempt, error, host from failed_attempts order by at")
            .fetch_all(&system.pool)
            .await
            .unwrap();
    for (number, (attempt, error, host)) in (1..).zip(&attempts) {
        assert_eq!((*attempt, error.as_str()), (number, "Invalid sku LAMP"));
        assert!(!host.is_empty());
    }
    system.close_after([worker]).await;
}

/// Records the delay of each retry when it is scheduled.
const DELAYS: &str = "create table delays (attempts integer, seconds float8);
    create function note_delay() returns trigger language plpgsql security definer as $$
    begin
        insert into delays values (new.attempts, extract(epoch from new.due_at - clock_timestamp()));
        return null;
    end $$;
    create trigger note_delay after insert or update of attempts on failed_messages
    for each row when (new.status = 'retrying') execute function note_delay()";

/// The scheduled delays have upper bounds and the actual ones lower bounds, so a slow machine does not matter.
#[tokio::test(flavor = "multi_thread")]
async fn retry_delays_grow_within_their_jitter() {
    let system = TestSystem::new("retry_delays_grow_within_their_jitter").await;
    system.expect_dead(1);
    sqlx::raw_sql(DELAYS).execute(&system.pool).await.unwrap();
    let worker = system.worker_with(&[
        ("ALLOCATION__RETRY__MAX_ATTEMPTS", "4"),
        ("ALLOCATION__RETRY__INITIAL_INTERVAL", "200ms"),
        ("ALLOCATION__RETRY__MULTIPLIER", "3"),
        ("ALLOCATION__RETRY__JITTER", "0.2"),
    ]);
    system.sender.send(&allocate("o-1", "NO-SUCH-SKU", 2)).await;
    let id = dead(&system, 1).await.remove(0);

    let recorded: Vec<f64> = sqlx::query_scalar("select seconds from delays order by attempts")
        .fetch_all(&system.pool)
        .await
        .unwrap();
    let at: Vec<f64> =
        sqlx::query_scalar("select extract(epoch from at)::float8 from failed_attempts order by attempt")
            .fetch_all(&system.pool)
            .await
            .unwrap();
    let waited = at.windows(2).map(|pair| pair[1] - pair[0]);
    assert_eq!((recorded.len(), at.len()), (3, 4));
    for ((delay, recorded), waited) in [0.2, 0.6, 1.8].into_iter().zip(recorded).zip(waited) {
        assert!(recorded <= 1.2 * delay, "scheduled after {recorded} s instead of {delay} s");
        assert!(waited >= 0.8 * delay, "retried after {waited} s instead of {delay} s");
    }
    let shown = dead_letters(&system, &["show", &id]).await.exits(0).json();
    assert_eq!((&shown["status"], &shown["reason"]), (&json!("dead"), &json!("rejected")));
    let history = shown["history"].as_array().unwrap();
    let numbers: Vec<_> = history.iter().map(|attempt| attempt["attempt"].clone()).collect();
    assert_eq!(numbers, [json!(1), json!(2), json!(3), json!(4)]);
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_can_retry_before_the_delay_is_over() {
    let system = TestSystem::new("an_operator_can_retry_before_the_delay_is_over").await;
    let worker = system.worker_with(&[
        ("ALLOCATION__RETRY__INITIAL_INTERVAL", "1h"),
        ("ALLOCATION__RETRY__MAX_INTERVAL", "1h"),
    ]);
    system.sender.send(&allocate("o-1", "LAMP", 2)).await;
    let waiting = "select count(*) from failed_messages where status = 'retrying'";
    wait_for("the command is retrying", DRAINS_WITHIN, &1, async || system.count(waiting).await).await;
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    system.wait_handled(1).await;
    let retried = dead_letters(&system, &["retry", "--status", "retrying"]).await;
    assert_eq!(retried.exits(0).json(), all_of(1));
    system.settled(2).await;
    system.close_after([worker]).await;
}

//! Operator retries that are killed, repeated, late, or followed by another failure.

use allocation::faults::CrashPoint;
use lapin::options::QueueDeleteOptions;
use serde_json::{Value, json};

use super::worker_crashes::{FAST_RETRY, dead_letter_by_broker};
use crate::{
    check_report::CheckReport,
    cluster::Cluster,
    command::{allocate, change_batch_quantity, create_batch},
    kill_point::KillPoint::{self, Port},
    program::Program,
    test_system::TestSystem,
    wait::{wait_until, wait_until_equal},
};

/// A message is dead after one attempt.
const ONE_ATTEMPT: [(&str, &str); 1] = [("ALLOCATION__RETRY__MAX_ATTEMPTS", "1")];
const DEAD: &str = "select count(*) from failed_messages where status = 'dead'";
const RETRYING: &str = "select count(*) from failed_messages where status = 'retrying'";
const RESOLVED: &str = "select count(*) from failed_messages where status = 'resolved'";
const RETRY_ALL: [&str; 4] = ["--json", "dead-letters", "retry", "--all"];

/// Three lines that are dead because their batch was created too late; it exists now.
async fn dead_letters_that_can_succeed(system: &TestSystem<'_>) -> anyhow::Result<Program> {
    let worker = system.start("worker", &ONE_ATTEMPT)?;
    let lines: Vec<_> = (0..3).map(|i| allocate(&format!("early-{i}"), "LATE-LAMP", 1)).collect();
    system.send(&lines).await?;
    wait_until_equal("the messages are dead", system.cluster.timeout(), &3, async || {
        system.count(DEAD).await
    })
    .await?;
    system.send(&[create_batch("late", "LATE-LAMP", 10)]).await?;
    system.wait_handled(1).await?;
    Ok(worker)
}

pub(super) async fn retry_killed_before_commit(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    retry_killed(
        TestSystem::new(cluster, "retry_killed_before_commit").await?,
        KillPoint::OPERATOR_BEFORE_COMMIT,
    )
    .await
}

pub(super) async fn retry_killed_after_commit(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    retry_killed(
        TestSystem::new(cluster, "retry_killed_after_commit").await?,
        Port(CrashPoint::OperatorAfterCommit),
    )
    .await
}

/// Either all or none of the retries are scheduled; the same call again does the rest.
async fn retry_killed(system: TestSystem<'_>, at: KillPoint) -> anyhow::Result<CheckReport> {
    let worker = dead_letters_that_can_succeed(&system).await?;
    let start = |environment: &[(&str, &str)]| {
        let mut command = system.cluster.program(&system.namespace, &system.database_url(), &RETRY_ALL);
        Program::start(command.envs(environment.iter().copied()), system.next_log_path())
    };
    at.kill(&system, start).await?;
    let committed = if at == Port(CrashPoint::OperatorAfterCommit) { 3 } else { 0 };
    system.expect("retries scheduled", &system.count(RETRYING).await?, &committed);
    let recorded = system.count("select count(*) from failed_actions where what = 'retry'").await?;
    system.expect("recorded", &recorded, &committed);
    let second = system.cli(&RETRY_ALL).await?.ensure_exit_code(0)?.json()?;
    system.expect("done by the second call", &second["done"], &json!(3 - committed));
    let relay = system.start("relay", &[])?;
    system.wait_handled(4).await?;
    system.expect("resolved", &system.count(RESOLVED).await?, &3);
    system.finish(vec![worker, relay]).await
}

/// Two concurrent retries count once; a retry of a message that was handled since is skipped.
pub(super) async fn concurrent_and_late_retries(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "concurrent_and_late_retries").await?;
    let worker = dead_letters_that_can_succeed(&system).await?;
    // One sender sends its message again.
    system.command_source.resend(&[allocate("early-0", "LATE-LAMP", 1)]).await?;
    system.wait_handled(2).await?;
    let ids: Vec<String> = sqlx::query_scalar("select id::text from failed_messages order by id")
        .fetch_all(&system.pool)
        .await?;
    let mut retry = vec!["--json", "dead-letters", "retry"];
    retry.extend(ids.iter().map(String::as_str));
    let (first, second) = tokio::join!(system.cli(&retry), system.cli(&retry));
    let done = |output: &Value| output["done"].as_i64().unwrap_or_default();
    let (first, second) = (first?.json()?, second?.json()?);
    system.add_evidence("two concurrent retries".into());
    system.expect("retries done in total", &(done(&first) + done(&second)), &2);
    let relay = system.start("relay", &[])?;
    system.wait_handled(4).await?;
    system.expect("resolved", &system.count(RESOLVED).await?, &3);
    system.finish(vec![worker, relay]).await
}

/// A message that the broker dead-lettered is retried, fails again, waits, and is delivered again without the
/// broker's headers.
pub(super) async fn dead_letter_retry_fails_again(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "dead_letter_retry_fails_again").await?;
    dead_letter_by_broker(&system, &allocate("early", "LATE-LAMP", 1)).await?;
    let program = system.start("worker,relay,archive", &FAST_RETRY)?;
    wait_until_equal("the message is dead", cluster.timeout(), &1, async || system.count(DEAD).await).await?;
    system.cli(&RETRY_ALL).await?.ensure_exit_code(0)?;
    wait_until("the message fails again", cluster.timeout(), async || {
        anyhow::Ok(system.failed_attempts().await? >= 3)
    })
    .await?;
    system.add_evidence("failed again after the retry".into());
    system.send(&[create_batch("late", "LATE-LAMP", 10)]).await?;
    system.wait_handled(2).await?;
    system.expect("resolved", &system.count(RESOLVED).await?, &1);
    system.finish(vec![program]).await
}

/// Forty retries wait for their queue; a retry of another queue is not delayed.
pub(super) async fn retries_without_a_queue(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "retries_without_a_queue").await?;
    // The delay must end after the queue is deleted, or copies would be deleted with it.
    let slow_retry = [("ALLOCATION__RETRY__INITIAL_INTERVAL", "10s"), ("ALLOCATION__RETRY__JITTER", "0")];
    let program = system.start("worker,relay", &slow_retry)?;
    let mut commands: Vec<_> = (0..40).map(|i| allocate(&format!("early-{i}"), "LATE-LAMP", 1)).collect();
    commands.push(change_batch_quantity("late", 90, None));
    system.send(&commands).await?;
    wait_until_equal("the retries are scheduled", cluster.timeout(), &41, async || {
        system.count(RETRYING).await
    })
    .await?;
    wait_until_equal("the queues are empty", cluster.timeout(), &0, async || system.ready_commands().await)
        .await?;
    let channel = system.broker_client.channel().await?;
    channel.queue_delete(system.qualified("orders").into(), QueueDeleteOptions::default()).await?;
    system.send(&[create_batch("late", "LATE-LAMP", 100)]).await?;
    system.wait_handled(2).await?;
    let deferred = async || {
        system
            .count("select count(*) from failed_messages where held_because is not null and queue = 'orders'")
            .await
    };
    wait_until_equal("forty retries are deferred", cluster.timeout(), &40, deferred).await?;
    system.add_evidence("40 retries without a queue".into());
    system.cli(&["topology"]).await?.ensure_exit_code(0)?;
    system.wait_handled(42).await?;
    system.expect("resolved", &system.count(RESOLVED).await?, &41);
    system.finish(vec![program]).await
}

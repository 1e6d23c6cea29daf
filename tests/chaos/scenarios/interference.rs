//! Messages that may affect others: one that kills its worker, many duplicates, and handlers that time out.

use std::time::Duration;

use allocation::faults::CrashPoint;

use super::worker_crashes::{FAST_RETRY, resend_superseded};
use crate::{
    check_report::CheckReport,
    cluster::Cluster,
    command::{Command, allocate, change_batch_quantity, create_batch, order_lines},
    journal,
    program::Program,
    proxy::Proxy,
    random::Random,
    test_system::TestSystem,
    wait::{wait_until, wait_until_equal},
};

/// A transaction that has been idle for a second belongs to no running handler.
const IDLE_TRANSACTION_AGE: Duration = Duration::from_millis(1500);

/// Dead after five deaths. Its neighbours are handled without a failure, and an operator's retry succeeds.
pub(super) async fn poison_message(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "poison_message").await?;
    let poison = allocate("poison", "LAMP", 1);
    let mut lines = order_lines("LAMP", "line", 50);
    lines.insert(25, poison.clone());
    system.send(&lines).await?;
    let crash_at = format!("{}@{}", CrashPoint::WorkerMidHandler.name(), poison.message_id);
    // The first death is not counted: the message was not redelivered. The next two units of work contain other
    // messages, the last two only this one.
    for _ in 0..5 {
        let mut worker = system.start("worker", &[("CRASH_AT", &crash_at)])?;
        system.expect_crash(&mut worker, CrashPoint::WorkerMidHandler).await?;
    }
    let worker = system.start("worker,relay", &[("CRASH_AT", &crash_at)])?;
    system.wait_handled(50).await?;
    let dead = async || {
        system
            .count(
                "select count(*) from failed_messages
                 where status = 'dead' and reason = 'crash_loop' and message_id = 'allocate LAMP for poison'",
            )
            .await
    };
    wait_until_equal("the poison message is dead", cluster.timeout(), &1, dead).await?;
    system.expect("failed messages", &system.count("select count(*) from failed_messages").await?, &1);
    worker.terminate().await?;
    let process = system.start_all_roles()?;
    system.cli(&["dead-letters", "retry", "--all"]).await?.ensure_exit_code(0)?;
    system.finish(vec![process]).await
}

/// A message has one effect, however often it is delivered, also when the effect was superseded since.
pub(super) async fn duplicates(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "duplicates").await?;
    let lines = [order_lines("LAMP", "lamp", 10), order_lines("SCARCE", "scarce", 10)].concat();
    let mut copies = Vec::new();
    let mut random = Random::seeded(28);
    for line in &lines {
        let times = usize::try_from(1 + random.below(49))?;
        copies.extend(std::iter::repeat_n(line.clone(), times));
    }
    random.shuffle(&mut copies);
    let workers = [system.start("worker", &[])?, system.start("worker", &[])?];
    let process = system.start_all_roles()?;
    system.send(&lines).await?;
    let (first, second) = copies.split_at(copies.len() / 2);
    tokio::try_join!(system.command_source.resend(first), system.command_source.resend(second))?;
    system.add_evidence(format!("{} duplicates of {}", copies.len(), lines.len()));
    system.wait_handled(lines.len()).await?;
    // A lost message must stay lost until the check.
    if system.handled().await? == i64::try_from(lines.len())? {
        system.note_timeout(resend_lines_and_changes(&system, &lines, workers).await)?;
    }
    system.finish(vec![process]).await
}

/// Old lines are sent again after they were deallocated, and an old quantity change after a newer one.
async fn resend_lines_and_changes(
    system: &TestSystem<'_>,
    lines: &[Command],
    workers: [Program; 2],
) -> anyhow::Result<Duration> {
    let timeout = system.timeout();
    wait_until_equal("the duplicates are consumed", timeout, &0, async || system.ready_commands().await)
        .await?;
    system.stop(workers.into()).await;
    resend_superseded(system, lines).await?;
    let change = |qty| change_batch_quantity("counted", qty, None);
    for command in [create_batch("counted", "DESK", 60), change(50), change(40)] {
        system.send_and_wait(&[command], timeout).await?;
    }
    system.command_source.resend(&[change(50)]).await?;
    // The changes of one batch are handled in order.
    system.send_and_wait(&[change(30)], timeout).await
}

/// A handler that times out while it reads leaves no open transaction and no partial change.
pub(super) async fn handler_timeouts(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "handler_timeouts").await?;
    let proxy = Proxy::start(&system.database_url()).await?;
    let backordered: Vec<_> = (0..10).map(|i| allocate(&format!("large-{i}"), "SCARCE", 100)).collect();
    let process = system.start_all_roles()?;
    system.send(&backordered).await?;
    system.wait_handled(10).await?;
    process.terminate().await?;
    let environment =
        [&FAST_RETRY[..], &[("ALLOCATION__WORKER__HANDLER_TIMEOUT", "1ms"), ("DATABASE_URL", proxy.url())]];
    let with_short_timeout = system.start("worker,relay", &environment.concat())?;
    proxy.delay(Duration::from_millis(5));
    let batches: Vec<_> = (0..5).map(|i| create_batch(&format!("more-{i}"), "SCARCE", 200)).collect();
    system.send(&batches).await?;
    wait_until("handlers time out", cluster.timeout(), async || {
        anyhow::Ok(system.failed_attempts().await? >= 10)
    })
    .await?;
    let timeouts = system.count("select count(*) from failed_attempts where error like '%1ms%'").await?;
    system.add_evidence(format!("{timeouts} handlers timed out"));
    system.expect("handlers timed out", &(timeouts > 0), &true);
    // Before that, an open transaction may belong to a running handler.
    tokio::time::sleep(IDLE_TRANSACTION_AGE).await;
    system.expect("idle transactions", &journal::idle_transactions(&system.pool).await?, &0);
    with_short_timeout.terminate().await?;
    let with_default_timeout = system.start("worker,relay", &FAST_RETRY)?;
    system.finish(vec![with_default_timeout]).await
}

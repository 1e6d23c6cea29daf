//! PostgreSQL crashes, stops, or loses a connection around a commit. Nothing counts as an attempt, and no process
//! ends.

use std::time::Duration;

use crate::{
    check_report::CheckReport,
    cluster::{Cluster, Recovery},
    command::{create_batch, order_lines},
    command_load::CommandLoad,
    proxy::{CutPoint, Proxy},
    test_system::TestSystem,
    wait::wait_until,
    wire::WireEvent,
};

/// How often a backend is killed.
const CRASHES: usize = 10;
/// How long the server is stopped.
const OUTAGE_DURATION: Duration = Duration::from_secs(10);
/// Time limit to continue after an outage on a busy machine. The actual time is measured.
const RECOVERY_LIMIT: Duration = Duration::from_secs(30);

/// The worker does not know whether the commit took effect; the inbox does.
pub(super) async fn commit_reply_lost(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    cut_at_commit(TestSystem::new(cluster, "commit_reply_lost").await?, WireEvent::Committed).await
}

pub(super) async fn commit_lost(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    cut_at_commit(TestSystem::new(cluster, "commit_lost").await?, WireEvent::Commit).await
}

async fn cut_at_commit(system: TestSystem<'_>, event: WireEvent) -> anyhow::Result<CheckReport> {
    let proxy = Proxy::start(&system.database_url()).await?;
    let environment = [("DATABASE_URL", proxy.url()), ("ALLOCATION__WORKER__MAX_BATCH", "10")];
    let mut program = system.start("worker,relay", &environment)?;
    proxy.arm_cut(CutPoint::Before, event, 1);
    system.send(&order_lines("LAMP", "line", 60)).await?;
    wait_until("the connection is cut", system.cluster.timeout(), async || anyhow::Ok(proxy.cuts_made() > 0))
        .await?;
    system.add_evidence(format!("cut before {event:?}"));
    system.wait_handled(60).await?;
    system.expect("failed attempts", &system.failed_attempts().await?, &0);
    system.expect("alive", &program.is_alive(), &true);
    system.finish(vec![program]).await
}

/// The connection is cut within statements, at five different bytes.
pub(super) async fn statements_cut(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "statements_cut").await?;
    let proxy = Proxy::start(&system.database_url()).await?;
    let environment = [("DATABASE_URL", proxy.url()), ("ALLOCATION__WORKER__MAX_BATCH", "10")];
    let mut program = system.start("worker,relay", &environment)?;
    let mut load = CommandLoad::seeded(16);
    for round in 1..=5_u32 {
        system.wait_until_drained().await?;
        load.mark_handled();
        proxy.cut_after(1777 * usize::try_from(round)?);
        system.send(&load.next_commands(60)).await?;
        wait_until("the connection is cut", system.cluster.timeout(), async || {
            anyhow::Ok(proxy.cuts_made() >= round)
        })
        .await?;
        system.add_evidence("cut within a statement".into());
    }
    system.wait_until_drained().await?;
    system.expect("failed attempts", &system.failed_attempts().await?, &0);
    system.expect("alive", &program.is_alive(), &true);
    system.finish(vec![program]).await
}

/// Every session is dropped and the server recovers, ten times.
pub(super) async fn backends_killed(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "backends_killed").await?;
    let mut program = system.start("worker,relay", &[("ALLOCATION__WORKER__MAX_BATCH", "5")])?;
    let mut load = CommandLoad::seeded(21);
    for round in 0..CRASHES {
        let before = system.handled().await?;
        let portion = load.next_commands(60);
        let crash = async {
            system.wait_for_progress(before).await?;
            cluster.postgres.crash_backend(&system.database).await
        };
        let (sent, open) = tokio::join!(system.send(&portion), crash);
        sent?;
        if open? > 0 {
            system.add_evidence("crashed with open transactions".into());
        }
        let probe = create_batch(&format!("probe-{round}"), "LAMP", 1);
        system.measure_recovery(Recovery::Database, &probe).await?;
        system.wait_until_drained().await?;
        load.mark_handled();
    }
    system.expect("failed attempts", &system.failed_attempts().await?, &0);
    system.expect("alive", &program.is_alive(), &true);
    system.finish(vec![program]).await
}

/// The postmaster is killed and the server started again.
pub(super) async fn postmaster_killed(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "postmaster_killed").await?;
    let mut program = system.start("worker,relay", &[("ALLOCATION__WORKER__MAX_BATCH", "5")])?;
    let lines = order_lines("LAMP", "line", 200);
    let crash = async {
        system.wait_for_progress(0).await?;
        let in_flight = system.in_flight().await?;
        cluster.postgres.crash().await?;
        anyhow::Ok(in_flight)
    };
    let (sent, in_flight) = tokio::join!(system.send(&lines), crash);
    sent?;
    if in_flight? > 0 {
        system.add_evidence("crashed with messages in flight".into());
    }
    system.measure_recovery(Recovery::Database, &create_batch("probe", "LAMP", 1)).await?;
    system.expect("failed attempts", &system.failed_attempts().await?, &0);
    system.expect("alive", &program.is_alive(), &true);
    system.finish(vec![program]).await
}

/// Messages stay unacknowledged during the outage, and work continues when the server is available again.
pub(super) async fn database_down(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "database_down").await?;
    let mut program = system.start("worker,relay", &[("ALLOCATION__WORKER__MAX_BATCH", "5")])?;
    let (before, meanwhile) = (order_lines("LAMP", "before", 100), order_lines("DESK", "meanwhile", 100));
    let stop = async {
        system.wait_for_progress(0).await?;
        let in_flight = system.in_flight().await?;
        cluster.postgres.stop_immediately()?;
        anyhow::Ok(in_flight)
    };
    let (sent, in_flight) = tokio::join!(system.send(&before), stop);
    sent?;
    in_flight?;
    system.send(&meanwhile).await?;
    tokio::time::sleep(OUTAGE_DURATION).await; // the duration of the fault; not a wait for a condition
    let held = cluster.rabbit.unacknowledged_messages(&system.namespace).await?;
    system.expect("unacknowledged messages", &(held > 0), &true);
    if held > 0 {
        system.add_evidence(format!("{held} unacknowledged messages"));
    }
    cluster.postgres.run().await?;
    // Work may have continued before this reading.
    let recovery = system.wait_for_progress(system.handled().await?.min(199)).await?;
    system.cluster.record_recovery(Recovery::Database, recovery);
    system.expect("continued in time", &(recovery < RECOVERY_LIMIT), &true);
    system.expect("failed attempts", &system.failed_attempts().await?, &0);
    system.expect("alive", &program.is_alive(), &true);
    system.finish(vec![program]).await
}

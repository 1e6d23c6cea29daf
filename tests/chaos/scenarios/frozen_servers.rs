//! Servers that do not reply while their connections stay open.

use std::time::Duration;

use crate::{
    check_report::CheckReport, cluster::Cluster, command::order_lines, command_load::CommandLoad,
    program::Program, proxy::Proxy, test_system::TestSystem, wait::wait_until,
};

/// Time limit to detect it: database timeout, two heartbeats, timeout of a new connection.
const DETECTION_TIMEOUT: Duration = Duration::from_secs(40);
/// Time limit with a heartbeat of 2 s; shorter than any default.
const HEARTBEAT_DETECTION_LIMIT: Duration = Duration::from_secs(10);
/// How long the database stays frozen after that was detected: longer than a statement, its rollback and a probe,
/// each with a timeout of 2 s, and the wait for a connection take together. So no probe succeeds between a timeout
/// and its classification, which would count as an attempt.
const FREEZE_DURATION: Duration = Duration::from_secs(12);

pub(super) async fn database_frozen_then_restored(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    database_frozen(TestSystem::new(cluster, "database_frozen_then_restored").await?, false).await
}

pub(super) async fn database_frozen_then_disconnected(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    database_frozen(TestSystem::new(cluster, "database_frozen_then_disconnected").await?, true).await
}

/// No message has a failed attempt, and no connection of the pool is lost.
async fn database_frozen(system: TestSystem<'_>, disconnect: bool) -> anyhow::Result<CheckReport> {
    let proxy = Proxy::start(&system.database_url()).await?;
    let environment = [("DATABASE_URL", proxy.url()), ("ALLOCATION__DATABASE__TIMEOUT", "2s")];
    let mut program = system.start("worker,relay", &environment)?;
    let mut load = CommandLoad::seeded(23);
    system.send(&load.next_commands(200)).await?;
    system.wait_for_progress(0).await?;
    proxy.freeze(true);
    system.send(&load.next_commands(50)).await?;
    wait_for_outage(&system, &program, "database").await?;
    tokio::time::sleep(FREEZE_DURATION).await; // the duration of the fault; not a wait for a condition
    if disconnect {
        proxy.cut();
    }
    proxy.freeze(false);
    system.wait_handled(250).await?;
    let failed = system.count("select count(*) from failed_messages").await?;
    system.expect("failed messages", &failed, &0);
    load.mark_handled();
    system.send(&load.next_commands(250)).await?;
    system.wait_handled(500).await?;
    system.expect("alive", &program.is_alive(), &true);
    system.finish(vec![program]).await
}

/// The heartbeat detects it, and redelivered messages have no second effect.
pub(super) async fn broker_frozen(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "broker_frozen").await?;
    let proxy = Proxy::start(&cluster.rabbit.url()).await?;
    let url = format!("{}?heartbeat=2", proxy.url());
    let mut program = system.start("worker,relay", &[("AMQP_URL", &url)])?;
    let mut load = CommandLoad::seeded(17);
    system.send(&load.next_commands(200)).await?;
    system.wait_for_progress(0).await?;
    proxy.freeze(true);
    system.send(&load.next_commands(50)).await?;
    let detected_after = wait_for_outage(&system, &program, "broker").await?;
    system.expect("detected by the heartbeat", &(detected_after < HEARTBEAT_DETECTION_LIMIT), &true);
    proxy.cut();
    proxy.freeze(false);
    system.wait_handled(250).await?;
    system.expect("failed attempts", &system.failed_attempts().await?, &0);
    system.expect("alive", &program.is_alive(), &true);
    system.finish(vec![program]).await
}

/// Both servers close their connections and refuse new ones for a while.
pub(super) async fn connections_refused(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "connections_refused").await?;
    let proxies = [Proxy::start(&system.database_url()).await?, Proxy::start(&cluster.rabbit.url()).await?];
    let urls = [("DATABASE_URL", proxies[0].url()), ("AMQP_URL", proxies[1].url())];
    let mut program = system.start("worker,relay", &urls)?;
    let mut load = CommandLoad::seeded(22);
    system.send(&load.next_commands(200)).await?;
    system.wait_for_progress(0).await?;
    for proxy in &proxies {
        proxy.refuse_connections(true);
        proxy.cut();
    }
    system.send(&load.next_commands(50)).await?;
    for dependency in ["database", "broker"] {
        wait_for_outage(&system, &program, dependency).await?;
    }
    for proxy in &proxies {
        proxy.refuse_connections(false);
    }
    system.wait_handled(250).await?;
    system.expect("failed attempts", &system.failed_attempts().await?, &0);
    system.expect("alive", &program.is_alive(), &true);
    system.finish(vec![program]).await
}

/// Waits until a process has logged that a server is unavailable.
async fn wait_for_outage(
    system: &TestSystem<'_>,
    program: &Program,
    dependency: &str,
) -> anyhow::Result<Duration> {
    let logged = async || anyhow::Ok(program.has_logged_outage_of(dependency));
    let detected_after = wait_until("the outage is logged", DETECTION_TIMEOUT, logged).await?;
    system.add_evidence(format!("outage of the {dependency} detected after {} s", detected_after.as_secs()));
    Ok(detected_after)
}

/// The broker requeues messages after the consumer timeout while a worker still handles them: one effect each.
pub(super) async fn consumer_timeout(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "consumer_timeout").await?;
    let proxy = Proxy::start(&system.database_url()).await?;
    set_consumer_timeout(cluster, 3000, 1000).await?;
    let program = system.start("worker,relay", &[("DATABASE_URL", proxy.url())])?;
    let requeued_after = redelivery_after_timeout(&system, &proxy).await;
    set_consumer_timeout(cluster, 1_800_000, 60_000).await?;
    system.add_evidence(format!("requeued after {} s", requeued_after?.as_secs()));
    system.wait_handled(20).await?;
    system.expect("failed attempts", &system.failed_attempts().await?, &0);
    system.finish(vec![program]).await
}

async fn redelivery_after_timeout(system: &TestSystem<'_>, proxy: &Proxy) -> anyhow::Result<Duration> {
    let timeout = system.cluster.timeout();
    system.wait_until_consuming().await?;
    proxy.freeze(true);
    system.send(&order_lines("LAMP", "line", 20)).await?;
    wait_until("all messages are delivered", timeout, async || {
        anyhow::Ok(system.ready_commands().await? == 0)
    })
    .await?;
    let requeued = async || anyhow::Ok(system.ready_commands().await? > 0);
    let requeued_after = wait_until("the broker requeues the messages", DETECTION_TIMEOUT, requeued).await;
    proxy.freeze(false);
    requeued_after
}

/// Sets the consumer timeout of channels opened from now on, and the interval of the check, in ms.
async fn set_consumer_timeout(cluster: &Cluster, timeout: u32, tick: u32) -> anyhow::Result<()> {
    let settings = format!(
        "application:set_env(rabbit, consumer_timeout, {timeout}),
         application:set_env(rabbit, channel_tick_interval, {tick})."
    );
    cluster.rabbit.rabbitmqctl(&["eval", &settings]).await.map(drop)
}

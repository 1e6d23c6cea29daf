//! RabbitMQ restarts, crashes, closes connections or blocks publishers. The same processes continue when it is
//! available again.

use std::time::{Duration, Instant};

use lapin::options::QueueDeleteOptions;
use serde_json::Value;

use crate::{
    check_report::CheckReport,
    cluster::{Cluster, LIMITED_USER, Recovery},
    command::{allocate, create_batch, order_lines},
    command_load::CommandLoad,
    program::Program,
    test_system::TestSystem,
    wait::{wait_until, wait_until_equal},
};

/// Declared queues are on disk after this time.
pub(crate) const QUEUES_ON_DISK_AFTER: Duration = Duration::from_secs(2);
/// Time limit to consume from a recreated queue on a busy machine.
const RECOVERY_LIMIT: Duration = Duration::from_secs(30);
/// How long access stays revoked after the program detected it.
const OUTAGE_DURATION: Duration = Duration::from_secs(2);

/// An orderly restart closes the connections and keeps all messages.
pub(super) async fn broker_restarted(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "broker_restarted").await?;
    let restart = async || {
        cluster.rabbit.rabbitmqctl(&["stop_app"]).await?;
        cluster.rabbit.rabbitmqctl(&["start_app"]).await?;
        cluster.rabbit.wait_until_available().await.map(drop)
    };
    unavailable_under_load(system, restart).await
}

pub(super) async fn broker_killed(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "broker_killed").await?;
    tokio::time::sleep(QUEUES_ON_DISK_AFTER.saturating_sub(system.started_at.elapsed())).await; // see the constant
    let kill = async || {
        cluster.rabbit.kill()?;
        cluster.rabbit.run().await
    };
    unavailable_under_load(system, kill).await
}

/// The broker is unavailable for a while with messages in flight. The same process handles everything that was
/// confirmed.
async fn unavailable_under_load(
    system: TestSystem<'_>,
    fault: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<CheckReport> {
    let mut program = system.start("worker,relay", &[("ALLOCATION__WORKER__MAX_BATCH", "5")])?;
    let mut load = CommandLoad::seeded(14);
    let portion = load.next_commands(400);
    let inject = async {
        system.wait_for_progress(0).await?;
        let in_flight = system.in_flight().await?;
        fault().await?;
        anyhow::Ok(in_flight)
    };
    let (sent, in_flight) = tokio::join!(system.send(&portion), inject);
    sent?;
    let in_flight = in_flight?;
    system.expect("messages in flight", &(in_flight > 0), &true);
    if in_flight > 0 {
        system.add_evidence(format!("{in_flight} messages in flight"));
    }
    system.measure_recovery(Recovery::Broker, &create_batch("probe", "LAMP", 1)).await?;
    system.expect("failed attempts", &system.failed_attempts().await?, &0);
    system.expect("alive", &program.is_alive(), &true);
    system.finish(vec![program]).await
}

/// All connections are closed three times; the process reconnects.
pub(super) async fn connections_closed(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "connections_closed").await?;
    let mut program = system.start("worker,relay", &[("ALLOCATION__WORKER__MAX_BATCH", "5")])?;
    let mut load = CommandLoad::seeded(18);
    for _ in 0..3 {
        let (before, portion) = (system.handled().await?, load.next_commands(150));
        let close = async {
            system.wait_for_progress(before).await?;
            cluster.rabbit.rabbitmqctl(&["close_all_connections", "chaos"]).await
        };
        let (sent, closed) = tokio::join!(system.send(&portion), close);
        sent?;
        closed?;
        system.wait_until_drained().await?;
        load.mark_handled();
    }
    wait_for_outage(&system, &program).await?;
    system.expect("failed attempts", &system.failed_attempts().await?, &0);
    system.expect("alive", &program.is_alive(), &true);
    system.finish(vec![program]).await
}

/// The server cancels the consumer without an error. The process consumes again when the queue exists again.
pub(super) async fn queue_deleted(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "queue_deleted").await?;
    let mut program = system.start("worker,relay", &[])?;
    system.send(&[allocate("before", "LAMP", 1)]).await?;
    system.wait_until_drained().await?;
    let idle = async || anyhow::Ok(cluster.rabbit.unacknowledged_messages(&system.namespace).await? == 0);
    wait_until("no message is unacknowledged", cluster.timeout(), idle).await?;
    let channel = system.broker_client.channel().await?;
    channel.queue_delete(system.qualified("orders").into(), QueueDeleteOptions::default()).await?;
    wait_for_outage(&system, &program).await?;
    system.cli(&["topology"]).await?.ensure_exit_code(0)?;
    let begin = Instant::now();
    system.send(&[allocate("after", "LAMP", 1)]).await?;
    system.wait_handled(2).await?;
    let elapsed = begin.elapsed();
    system.add_evidence(format!("consumed again after {} ms", elapsed.as_millis()));
    system.expect("consumed again in time", &(elapsed < RECOVERY_LIMIT), &true);
    system.expect("alive", &program.is_alive(), &true);
    system.finish(vec![program]).await
}

/// Nothing is published, but acknowledgements succeed: they use connections that never publish.
pub(super) async fn broker_resource_alarm(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "broker_resource_alarm").await?;
    let lines = order_lines("LAMP", "line", 300);
    system.send(&lines).await?;
    cluster.rabbit.rabbitmqctl(&["set_disk_free_limit", "500000GB"]).await?;
    let program = system.start("worker,relay", &[("ALLOCATION__RELAY__MAX_IN_FLIGHT", "20")]);
    let result = check_during_alarm(&system, lines.len()).await;
    cluster.rabbit.rabbitmqctl(&["set_disk_free_limit", "50MB"]).await?;
    result?;
    system.expect("failed attempts", &system.failed_attempts().await?, &0);
    system.finish(vec![program?]).await
}

async fn check_during_alarm(system: &TestSystem<'_>, lines: usize) -> anyhow::Result<()> {
    system.wait_handled(lines).await?;
    let unacknowledged = async || system.cluster.rabbit.unacknowledged_messages(&system.namespace).await;
    wait_until_equal("all messages are acknowledged", system.cluster.timeout(), &0, unacknowledged).await?;
    system.expect("left in the queues", &system.ready_commands().await?, &0);
    let waiting = system.count("select count(*) from outbox").await?;
    system.expect("events are waiting", &(waiting > 0), &true);
    if waiting > 0 {
        system.add_evidence(format!("{waiting} events waiting"));
    }
    let why: Value = serde_json::from_str(&system.cli(&["--json", "why", "orders"]).await?.stdout)?;
    system.expect("the first reason of why", &why["reasons"][0]["code"].as_str(), &Some("broker_alarm"));
    Ok(())
}

/// A relay cannot publish its events during an alarm. It does not wait for the end of the alarm when it is stopped.
pub(super) async fn stopped_during_alarm(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "stopped_during_alarm").await?;
    system.send(&order_lines("LAMP", "line", 20)).await?;
    cluster.rabbit.rabbitmqctl(&["set_disk_free_limit", "500000GB"]).await?;
    let result = stop_with_blocked_events(&system).await;
    cluster.rabbit.rabbitmqctl(&["set_disk_free_limit", "50MB"]).await?;
    result?;
    let relay = system.start("relay", &[])?;
    system.finish(vec![relay]).await
}

async fn stop_with_blocked_events(system: &TestSystem<'_>) -> anyhow::Result<()> {
    for roles in ["worker,relay", "worker"] {
        let program = system.start(roles, &[])?;
        system.wait_handled(20).await?;
        system.wait_until_consuming().await?;
        let begin = Instant::now();
        let status = program.terminate().await?;
        system.expect("stopped in order", &status.success(), &true);
        system.expect("stopped within 2 s", &(begin.elapsed() < Duration::from_secs(2)), &true);
    }
    let waiting = system.count("select count(*) from outbox").await?;
    system.add_evidence(format!("stopped with {waiting} events waiting"));
    system.expect("events are waiting", &(waiting > 0), &true);
    Ok(())
}

/// A user that may no longer read from its queues: the program says so for each queue, and continues afterwards.
pub(super) async fn read_permission_revoked(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "read_permission_revoked").await?;
    let program = system.start("worker,relay", &[("AMQP_URL", &cluster.rabbit.url_of(LIMITED_USER))])?;
    system.send(&order_lines("LAMP", "before", 20)).await?;
    system.wait_until_drained().await?;
    let result = check_without_read_permission(&system, &program).await;
    cluster.grant_broker_permissions().await?;
    result?;
    system.wait_handled(40).await?;
    system.expect("failed attempts", &system.failed_attempts().await?, &0);
    system.finish(vec![program]).await
}

async fn check_without_read_permission(system: &TestSystem<'_>, program: &Program) -> anyhow::Result<()> {
    let rabbit = &system.cluster.rabbit;
    rabbit.rabbitmqctl(&["set_permissions", LIMITED_USER, ".*", ".*", "^$"]).await?;
    rabbit.rabbitmqctl(&["close_all_connections", "chaos"]).await?;
    system.send(&order_lines("LAMP", "meanwhile", 20)).await?;
    for queue in ["orders", "stock"] {
        let text = format!("queue cannot be consumed, retrying queue=\"{queue}\"");
        let logged = async || anyhow::Ok(program.log().contains(&text));
        wait_until("the refusal is logged", system.cluster.timeout(), logged).await?;
    }
    system.add_evidence("refusal of both queues logged".into());
    let status = system.cli(&["status"]).await?.ensure_exit_code(1)?;
    system.expect("status names the queue", &status.stdout.contains("not consumed"), &true);
    Ok(())
}

/// A user without access is treated as an unavailable broker: no busy loop, no exit, and work continues afterwards.
pub(super) async fn broker_login_revoked(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "broker_login_revoked").await?;
    let mut program = system.start("worker,relay", &[("AMQP_URL", &cluster.rabbit.url_of(LIMITED_USER))])?;
    system.send(&order_lines("LAMP", "before", 20)).await?;
    system.wait_until_drained().await?;
    cluster.rabbit.rabbitmqctl(&["change_password", LIMITED_USER, "changed"]).await?;
    cluster.rabbit.rabbitmqctl(&["close_all_connections", "chaos"]).await?;
    let detected = wait_for_outage(&system, &program).await;
    tokio::time::sleep(OUTAGE_DURATION).await; // the duration of the fault; not a wait for a condition
    system.send(&order_lines("LAMP", "meanwhile", 20)).await?;
    system.expect("few log lines", &(program.log().lines().count() < 200), &true);
    cluster.rabbit.rabbitmqctl(&["change_password", LIMITED_USER, LIMITED_USER]).await?;
    detected?;
    system.wait_handled(40).await?;
    system.expect("alive", &program.is_alive(), &true);
    system.finish(vec![program]).await
}

/// A user that may read but not publish events: the work continues, and the events wait for the permission.
pub(super) async fn publish_permission_revoked(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "publish_permission_revoked").await?;
    let mut program = system.start("worker,relay", &[("AMQP_URL", &cluster.rabbit.url_of(LIMITED_USER))])?;
    system.send(&order_lines("LAMP", "before", 20)).await?;
    system.wait_until_drained().await?;
    let result = check_without_permission(&system, &program).await;
    cluster.grant_broker_permissions().await?;
    result?;
    let empty = async || system.count("select count(*) from outbox").await;
    wait_until_equal("the events are published", cluster.timeout(), &0, empty).await?;
    system.expect("failed attempts", &system.failed_attempts().await?, &0);
    system.expect("alive", &program.is_alive(), &true);
    system.finish(vec![program]).await
}

async fn check_without_permission(system: &TestSystem<'_>, program: &Program) -> anyhow::Result<()> {
    let rabbit = &system.cluster.rabbit;
    // Only the default exchange, whose permission has this name. Open channels may cache the old permissions.
    rabbit.rabbitmqctl(&["set_permissions", LIMITED_USER, ".*", r"^amq\.default$", ".*"]).await?;
    rabbit.rabbitmqctl(&["close_all_connections", "chaos"]).await?;
    system.send(&order_lines("LAMP", "meanwhile", 20)).await?;
    system.wait_handled(40).await?;
    wait_for_outage(system, program).await?;
    tokio::time::sleep(OUTAGE_DURATION).await; // the duration of the fault; not a wait for a condition
    let waiting = system.count("select count(*) from outbox where refused is null").await?;
    system.expect("waiting events, none parked", &waiting, &20);
    system.expect("few log lines", &(program.log().lines().count() < 200), &true);
    Ok(())
}

/// Waits until a process has logged that the broker is unavailable.
async fn wait_for_outage(system: &TestSystem<'_>, program: &Program) -> anyhow::Result<()> {
    let logged = async || anyhow::Ok(program.has_logged_outage_of("broker"));
    wait_until("the outage is logged", system.cluster.timeout(), logged).await?;
    system.add_evidence("outage of the broker detected".into());
    Ok(())
}

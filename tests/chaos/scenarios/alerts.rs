//! Alerts during a fault that needs a broker of the test's own. `tests/it/ops/outages` has the others.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use crate::{
    check_report::CheckReport,
    cluster::Cluster,
    command::order_lines,
    prometheus::{INTERVAL, Prometheus},
    servers::free_port,
    test_system::TestSystem,
    wait::wait_until_equal,
};

/// The alerts of a disk alarm: events wait. The broker is available, because it still delivers.
const ALERTS: [&str; 1] = ["OutboxOld"];
/// How long exactly these fire: as long as nearly every condition needs to be noticed.
const LASTS: Duration = Duration::from_secs(6);

/// During a disk alarm nothing is published. Exactly its alerts fire, and they clear after its end.
pub(super) async fn alerts_during_alarm(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "alerts_during_alarm").await?;
    system.send(&order_lines("LAMP", "line", 20)).await?;
    let metrics = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let prometheus = Prometheus::start(&[metrics]).await;
    cluster.rabbit.rabbitmqctl(&["set_disk_free_limit", "500000GB"]).await?;
    let listen = metrics.to_string();
    let environment = [
        ("ALLOCATION__METRICS__LISTEN", listen.as_str()),
        ("ALLOCATION__METRICS__INTERVAL", INTERVAL),
        ("ALLOCATION__NOTIFICATIONS__DIGEST", "0s"),
    ];
    let program = system.start("worker,relay,archive,notifier", &environment);
    let result = check_alerts(&system, &prometheus).await;
    cluster.rabbit.rabbitmqctl(&["set_disk_free_limit", "50MB"]).await?;
    result?;
    await_alerts(&system, &prometheus, &[]).await?;
    system.finish(vec![program?]).await
}

async fn check_alerts(system: &TestSystem<'_>, prometheus: &Prometheus) -> anyhow::Result<()> {
    system.wait_handled(20).await?;
    let leads = async || anyhow::Ok(prometheus.query("allocation_relay_leader == 1").await.len());
    wait_until_equal("the leader is scraped", system.timeout(), &1, leads).await?;
    await_alerts(system, prometheus, &ALERTS).await?;
    tokio::time::sleep(LASTS).await;
    system.expect("alerts that fire", &prometheus.alerts("firing").await, &named(&ALERTS));
    system.add_evidence(format!("{ALERTS:?} fired"));
    Ok(())
}

/// Waits until exactly these alerts fire and no other is pending.
async fn await_alerts(
    system: &TestSystem<'_>,
    prometheus: &Prometheus,
    names: &[&str],
) -> anyhow::Result<()> {
    let expected = [named(names), BTreeSet::new()];
    let alerts = async || anyhow::Ok([prometheus.alerts("firing").await, prometheus.alerts("pending").await]);
    let reached = wait_until_equal("alerts", system.timeout(), &expected, alerts).await;
    system.note_timeout(reached).map(drop)
}

fn named(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

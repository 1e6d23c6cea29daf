//! A process that makes no progress is not live, so that its supervisor restarts it.

use std::net::TcpListener;

use allocation::faults::SeededBug;

use crate::{
    check_report::CheckReport, cluster::Cluster, command::order_lines, test_system::TestSystem,
    wait::wait_until,
};

/// A cycle of the leader that takes longer is stalled.
const STALL_TIMEOUT: &str = "2s";
const EVENTS: u32 = 10;

/// The leader never returns from a publication, because it has the bug. A restart without the bug recovers.
pub(super) async fn stalled_relay(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "stalled_relay").await?;
    let listen = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let environment = [
        ("ALLOCATION__HEALTH__LISTEN", listen.as_str()),
        ("ALLOCATION__RELAY__STALL_TIMEOUT", STALL_TIMEOUT),
    ];
    let settings = system.write_file("health.toml", &format!("[health]\nlisten = \"{listen}\"\n"))?;
    let settings = settings.display().to_string();
    let is_live = async || anyhow::Ok(system.cli(&["--config", &settings, "health"]).await?.code == Some(0));
    cluster.seed_bug(Some(SeededBug::RelayDeadlock));
    let stalled = system.start("relay", &environment)?;
    cluster.seed_bug(None);
    let worker = system.start("worker", &[])?;
    wait_until("the relay without events is live", system.timeout(), is_live).await?;
    system.send(&order_lines("LAMP", "line", EVENTS)).await?;
    system.wait_handled(10).await?;
    let is_not_live = async || Ok(!is_live().await?);
    let detected = wait_until("the stalled relay is not live", system.timeout(), is_not_live).await?;
    system.add_evidence(format!("not live after {:.1} s", detected.as_secs_f64()));
    stalled.kill().await?;
    let relay = system.start("relay", &environment)?;
    wait_until("the new relay is live", system.timeout(), is_live).await?;
    system.finish(vec![worker, relay]).await
}

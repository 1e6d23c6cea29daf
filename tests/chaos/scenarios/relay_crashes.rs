//! Relays and senders that are killed while they publish.

use std::{collections::HashSet, time::Duration};

use allocation::faults::CrashPoint;
use anyhow::{Context as _, ensure};
use rustix::process::Signal;
use serde_json::json;
use tokio::time::Instant;

use crate::{
    check_report::CheckReport,
    cluster::{Cluster, Recovery},
    command::order_lines,
    kill_point::KillPoint::{self, Port},
    program::Program,
    proxy::Proxy,
    test_system::TestSystem,
    wait::wait_until,
};

/// The number of events in the outbox when the relay starts.
const EVENTS: u32 = 40;
/// The delay of the leader's connection, so that it has events to publish when it is killed.
const LINK_DELAY: Duration = Duration::from_millis(25);
/// Time limit for another relay to take over on a busy machine. The actual time is measured.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) async fn relay_killed_after_reading(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    relay_killed(
        TestSystem::new(cluster, "relay_killed_after_reading").await?,
        Port(CrashPoint::RelayClaimed),
        0..=0,
    )
    .await
}

pub(super) async fn relay_killed_before_confirms(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    relay_killed(
        TestSystem::new(cluster, "relay_killed_before_confirms").await?,
        KillPoint::EVENTS_PUBLISHED,
        0..=40,
    )
    .await
}

pub(super) async fn relay_killed_before_removal(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    relay_killed(
        TestSystem::new(cluster, "relay_killed_before_removal").await?,
        Port(CrashPoint::RelayConfirmed),
        40..=40,
    )
    .await
}

pub(super) async fn relay_killed_after_removal(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    relay_killed(
        TestSystem::new(cluster, "relay_killed_after_removal").await?,
        Port(CrashPoint::RelayRemoved),
        0..=0,
    )
    .await
}

/// Exactly the events that were not removed are published again.
async fn relay_killed(
    system: TestSystem<'_>,
    at: KillPoint,
    expected_republished: std::ops::RangeInclusive<usize>,
) -> anyhow::Result<CheckReport> {
    let worker = system.start("worker", &[])?;
    system.send(&order_lines("LAMP", "line", EVENTS)).await?;
    system.wait_handled(40).await?;
    system.run_until_killed(at, "relay", &[]).await?;
    let remaining = if at == Port(CrashPoint::RelayRemoved) { 0 } else { i64::from(EVENTS) };
    system.expect("events in the outbox", &system.count("select count(*) from outbox").await?, &remaining);
    let second_relay = system.start("relay", &[])?;
    let republished_enough = async || anyhow::Ok(republished(&system) >= *expected_republished.start());
    wait_until("events are published again", system.cluster.timeout(), republished_enough).await?;
    let mut report = system.finish(vec![worker, second_relay]).await?;
    if !expected_republished.contains(&report.duplicates) {
        report.violations.push(format!(
            "{} events were published again, expected {expected_republished:?}",
            report.duplicates
        ));
    }
    Ok(report)
}

/// The number of repeated publications, counted as the checker does.
pub(super) fn republished(system: &TestSystem<'_>) -> usize {
    let events = system.observer.events();
    let mut received = HashSet::new();
    events.iter().filter(|event| !received.insert(event.id.as_str()) && !event.redelivered).count()
}

/// The leader of three relays is killed while it has events to publish. Another takes over, and the order is kept.
pub(super) async fn leaders_killed(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "leaders_killed").await?;
    let proxy = Proxy::start(&cluster.rabbit.url()).await?;
    let worker = system.start("worker", &[])?;
    let mut relays = Vec::new();
    for role in ["relay_a", "relay_b", "worker_b"] {
        relays.push((role, relay(&system, &proxy, role)?));
    }
    for round in 0..3 {
        wait_until("a relay is leader", cluster.timeout(), async || {
            anyhow::Ok(leader(&system).await?.is_some())
        })
        .await?;
        proxy.delay(LINK_DELAY);
        system.send(&order_lines("LAMP", &format!("lamp-{round}"), 100)).await?;
        system.wait_handled(100 * (round + 1)).await?;
        let leader = leader(&system).await?.context("a relay is leader")?;
        let index = relays
            .iter()
            .position(|(role, _)| *role == leader)
            .context("the leader is one of the three relays")?;
        let (role, process) = relays.remove(index);
        system.expect("a leader with events to publish", &kill_leader(&system, process).await?, &true);
        proxy.delay(Duration::ZERO);
        relays.push((role, relay(&system, &proxy, role)?));
    }
    let programs = relays.into_iter().map(|(_, relay)| relay).chain([worker]).collect();
    system.finish(programs).await
}

fn relay(system: &TestSystem<'_>, proxy: &Proxy, role: &str) -> anyhow::Result<Program> {
    let url = system.cluster.postgres.url(role, &system.database);
    let small_window = ("ALLOCATION__RELAY__MAX_IN_FLIGHT", "10");
    system.start("relay", &[("DATABASE_URL", &url), ("AMQP_URL", proxy.url()), small_window])
}

/// The database role of the leading relay.
pub(crate) async fn leader(system: &TestSystem<'_>) -> anyhow::Result<Option<String>> {
    Ok(sqlx::query_scalar(
        "select usename::text from pg_locks join pg_stat_activity using (pid)
         where locktype = 'advisory' and granted and objsubid = 1
           and database = (select oid from pg_database where datname = current_database()) limit 1",
    )
    .fetch_optional(&system.pool)
    .await?)
}

/// Kills a relay; another publishes the events that were waiting. False if none were.
pub(crate) async fn kill_leader(system: &TestSystem<'_>, process: Program) -> anyhow::Result<bool> {
    process.signal(Signal::STOP)?;
    let waiting = system.count("select count(*) from outbox").await?;
    let last = system.count("select coalesce(max(id), 0) from outbox").await?;
    process.kill().await?;
    let begin = Instant::now();
    if waiting == 0 {
        return Ok(false);
    }
    system.add_evidence("killed with events to publish".into());
    let published = async || {
        let first: Option<i64> =
            sqlx::query_scalar("select min(id) from outbox").fetch_one(&system.pool).await?;
        anyhow::Ok(first.is_none_or(|first| first > last))
    };
    wait_until("another relay publishes", TAKEOVER_TIMEOUT, published).await?;
    system.cluster.record_recovery(Recovery::Relay, begin.elapsed());
    Ok(true)
}

/// Sending unconfirmed commands again under the same ids neither loses nor repeats any.
pub(super) async fn sender_killed_before_confirms(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "sender_killed_before_confirms").await?;
    let lines = order_lines("LAMP", "line", 30);
    let text: Vec<_> = lines
        .iter()
        .map(|line| {
            json!({ "type": line.kind, "message_id": line.message_id, "body": line.body }).to_string()
        })
        .collect();
    let file = system.write_file("lines.jsonl", &text.join("\n"))?;
    let send = ["send", "--file", file.to_str().context("the path must be UTF-8")?];
    let start = |environment: &[(&str, &str)]| {
        let mut command = cluster.program(&system.namespace, &system.database_url(), &send);
        Program::start(command.envs(environment.iter().copied()), system.next_log_path())
    };
    KillPoint::COMMANDS_PUBLISHED.kill(&system, start).await?;
    let process = system.start_all_roles()?;
    let output = system.cli(&send).await?.ensure_exit_code(0)?;
    ensure!(!output.stderr.contains("not confirmed"), "{}", output.stderr);
    system.command_source.record(&lines, true);
    system.finish(vec![process]).await
}

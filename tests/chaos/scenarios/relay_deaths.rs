//! Relays that are killed around the publication of events, and the sender of commands likewise.

use std::{collections::HashSet, time::Duration};

use allocation::crash_points::CrashPoint;
use anyhow::{Context as _, ensure};
use rustix::process::Signal;
use serde_json::json;
use tokio::time::Instant;

use crate::{
    command::lines_of,
    lab::{Lab, Recovery},
    program::Program,
    proxy::Proxy,
    verdict::Verdict,
    wait::until,
    world::World,
};

/// Events in the outbox when the relay begins.
const EVENTS: u32 = 40;
/// By how much its link delays a leader, so that it still has something to publish when it is killed.
const SLOW: Duration = Duration::from_millis(25);
/// Another relay takes over within this time, however busy the machine is; how soon it did is measured.
const TAKES_OVER_WITHIN: Duration = Duration::from_secs(30);

pub(super) async fn relay_killed_after_reading(lab: &Lab) -> anyhow::Result<Verdict> {
    killed(World::new(lab, "relay_killed_after_reading").await?, CrashPoint::RelayClaimed, 0..=0).await
}

pub(super) async fn relay_killed_before_confirms(lab: &Lab) -> anyhow::Result<Verdict> {
    killed(World::new(lab, "relay_killed_before_confirms").await?, CrashPoint::RelayPublished, 0..=40).await
}

pub(super) async fn relay_killed_before_removal(lab: &Lab) -> anyhow::Result<Verdict> {
    killed(World::new(lab, "relay_killed_before_removal").await?, CrashPoint::RelayConfirmed, 40..=40).await
}

pub(super) async fn relay_killed_after_removal(lab: &Lab) -> anyhow::Result<Verdict> {
    killed(World::new(lab, "relay_killed_after_removal").await?, CrashPoint::RelayRemoved, 0..=0).await
}

/// What was not removed is published again, and nothing else.
async fn killed(
    world: World<'_>,
    at: CrashPoint,
    again: std::ops::RangeInclusive<usize>,
) -> anyhow::Result<Verdict> {
    let worker = world.start("worker", &[])?;
    world.send(&lines_of("LAMP", "line", EVENTS)).await?;
    world.wait_handled(40).await?;
    world.dies(at, "relay", &[]).await?;
    let left = if at == CrashPoint::RelayRemoved { 0 } else { i64::from(EVENTS) };
    world.expect("events in the outbox", &world.count("select count(*) from outbox").await?, &left);
    let next = world.start("relay", &[])?;
    let repeated = async || anyhow::Ok(published_again(&world) >= *again.start());
    until("events are published again", world.lab.patience(), repeated).await?;
    let mut verdict = world.finish(vec![worker, next]).await?;
    if !again.contains(&verdict.duplicates) {
        verdict.complaints.push(format!("{} were published again, not {again:?}", verdict.duplicates));
    }
    Ok(verdict)
}

/// How many copies of events have arrived of which another had arrived before, as the checker counts them.
pub(super) fn published_again(world: &World<'_>) -> usize {
    let events = world.observer.events();
    let mut known = HashSet::new();
    events.iter().filter(|event| !known.insert(event.id.as_str()) && !event.redelivered).count()
}

/// Of three relays the leader is killed while it has something to publish; another takes over, and order holds.
pub(super) async fn leaders_killed(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "leaders_killed").await?;
    let proxy = Proxy::to(&lab.rabbit.url()).await?;
    let worker = world.start("worker", &[])?;
    let mut relays = Vec::new();
    for role in ["relay_a", "relay_b", "worker_b"] {
        relays.push((role, relay(&world, &proxy, role)?));
    }
    for round in 0..3 {
        until("somebody leads", lab.patience(), async || anyhow::Ok(leader(&world).await?.is_some())).await?;
        proxy.delay(SLOW);
        world.send(&lines_of("LAMP", &format!("lamp-{round}"), 100)).await?;
        world.wait_handled(100 * (round + 1)).await?;
        let leader = leader(&world).await?.context("somebody leads")?;
        let place = relays.iter().position(|(role, _)| *role == leader).context("it is one of ours")?;
        let (role, victim) = relays.remove(place);
        world.expect("a leader with events to publish", &kill_leader(&world, victim).await?, &true);
        proxy.delay(Duration::ZERO);
        relays.push((role, relay(&world, &proxy, role)?));
    }
    let programs = relays.into_iter().map(|(_, relay)| relay).chain([worker]).collect();
    world.finish(programs).await
}

fn relay(world: &World<'_>, proxy: &Proxy, role: &str) -> anyhow::Result<Program> {
    let url = world.lab.postgres.url(role, &world.database);
    let small_window = ("ALLOCATION__RELAY__MAX_IN_FLIGHT", "10");
    world.start("relay", &[("DATABASE_URL", &url), ("AMQP_URL", proxy.url()), small_window])
}

/// The role by which the leading relay is logged in.
pub(crate) async fn leader(world: &World<'_>) -> anyhow::Result<Option<String>> {
    Ok(sqlx::query_scalar(
        "select usename::text from pg_locks join pg_stat_activity using (pid)
         where locktype = 'advisory' and granted and objsubid = 1
           and database = (select oid from pg_database where datname = current_database()) limit 1",
    )
    .fetch_optional(&world.pool)
    .await?)
}

/// Kills a relay; what waited then is published by another. False if nothing did.
pub(crate) async fn kill_leader(world: &World<'_>, victim: Program) -> anyhow::Result<bool> {
    victim.signal(Signal::STOP)?;
    let waiting = world.count("select count(*) from outbox").await?;
    let last = world.count("select coalesce(max(id), 0) from outbox").await?;
    victim.kill().await?;
    let begin = Instant::now();
    if waiting == 0 {
        return Ok(false);
    }
    world.hit("killed with events to publish".into());
    let gone = async || {
        let first: Option<i64> =
            sqlx::query_scalar("select min(id) from outbox").fetch_one(&world.pool).await?;
        anyhow::Ok(first.is_none_or(|first| first > last))
    };
    until("another relay publishes", TAKES_OVER_WITHIN, gone).await?;
    world.lab.recovered(Recovery::Relay, begin.elapsed());
    Ok(true)
}

/// Whoever sends again what was not confirmed, under the same ids, loses nothing and doubles nothing.
pub(super) async fn sender_killed_before_confirms(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "sender_killed_before_confirms").await?;
    let lines = lines_of("LAMP", "line", 30);
    let text: Vec<_> = lines
        .iter()
        .map(|line| {
            json!({ "type": line.kind, "message_id": line.message_id, "body": line.body }).to_string()
        })
        .collect();
    let file = world.file("lines.jsonl", &text.join("\n"))?;
    let send = ["send", "--file", file.to_str().context("the path is text")?];
    let mut command = lab.program(&world.namespace, &world.database_url(), &send);
    let mut sender =
        Program::start(command.env("CRASH_AT", CrashPoint::SenderPublished.name()), world.next_log())?;
    world.died(&mut sender, CrashPoint::SenderPublished).await?;
    let healthy = world.healthy()?;
    let answer = world.cli(&send).await?.exits(0)?;
    ensure!(!answer.stderr.contains("not confirmed"), "{}", answer.stderr);
    world.upstream.note(&lines, true);
    world.finish(vec![healthy]).await
}

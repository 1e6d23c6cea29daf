//! Connections to the broker that are cut at an exact frame, and a queue that rejects events.

use std::{collections::HashMap, time::Duration};

use anyhow::Context as _;
use lapin::{
    BasicProperties, Channel,
    options::{BasicAckOptions, BasicGetOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};

use super::relay_crashes::republished;
use crate::{
    check_report::CheckReport,
    cluster::Cluster,
    command::order_lines,
    proxy::{CutPoint, Proxy},
    test_system::TestSystem,
    wait::{wait_until, wait_until_equal},
    wire::WireEvent,
};

/// The broker has the events but its confirm is lost: they are published again.
pub(super) async fn confirm_lost(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "confirm_lost").await?;
    cut_connection(system, "worker,relay", CutPoint::Before, WireEvent::Confirm).await
}

pub(super) async fn publication_cut_mid_frame(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    cut_connection(
        TestSystem::new(cluster, "publication_cut_mid_frame").await?,
        "worker,relay",
        CutPoint::Inside,
        WireEvent::PublishBody,
    )
    .await
}

/// The commit succeeded but the acknowledgement is lost: the duplicate has no effect.
pub(super) async fn acknowledgement_lost(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    cut_connection(
        TestSystem::new(cluster, "acknowledgement_lost").await?,
        "worker",
        CutPoint::Before,
        WireEvent::Acknowledge,
    )
    .await
}

pub(super) async fn cut_after_confirm(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    cut_connection(
        TestSystem::new(cluster, "cut_after_confirm").await?,
        "worker,relay",
        CutPoint::After,
        WireEvent::Confirm,
    )
    .await
}

pub(super) async fn cut_after_acknowledgement(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "cut_after_acknowledgement").await?;
    cut_connection(system, "worker", CutPoint::After, WireEvent::Acknowledge).await
}

/// One connection of a process is cut, and the process continues.
async fn cut_connection(
    system: TestSystem<'_>,
    roles: &str,
    point: CutPoint,
    event: WireEvent,
) -> anyhow::Result<CheckReport> {
    let proxy = Proxy::start(&system.cluster.rabbit.url()).await?;
    let mut programs = vec![system.start(roles, &[("AMQP_URL", proxy.url())])?];
    if !roles.contains("relay") {
        programs.push(system.start("relay", &[])?);
    }
    proxy.arm_cut(point, event, 0);
    system.send(&order_lines("LAMP", "line", 60)).await?;
    wait_until("the connection is cut", system.cluster.timeout(), async || anyhow::Ok(proxy.cuts_made() > 0))
        .await?;
    system.add_evidence(format!("cut at {event:?}"));
    system.wait_handled(60).await?;
    if event == WireEvent::Acknowledge && point == CutPoint::Before {
        let redelivered = async || anyhow::Ok(system.redeliveries().await? > 0);
        wait_until("handled messages are redelivered", system.cluster.timeout(), redelivered).await?;
    }
    if event == WireEvent::Confirm && point == CutPoint::Before {
        let republished = async || anyhow::Ok(republished(&system) > 0);
        wait_until("events are published again", system.cluster.timeout(), republished).await?;
    }
    system.expect("failed attempts", &system.failed_attempts().await?, &0);
    system.expect("alive", &programs[0].is_alive(), &true);
    system.finish(programs).await
}

/// A subscriber's queue with room for twenty events receives sixty, in an order that the subscriber can accept.
pub(super) async fn subscriber_queue_full(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "subscriber_queue_full").await?;
    // An event that arrives before its rejected predecessor does not count.
    system.events_rejected.set(true);
    let channel = system.broker_client.channel().await?;
    let full = system.qualified("full");
    declare_small_queue(&system, &channel, &full).await?;
    let program = system.start_all_roles()?;
    system.send(&order_lines("LAMP", "line", 60)).await?;
    system.wait_handled(60).await?;
    let ready = async || system.broker_client.ready_messages(&full).await;
    wait_until_equal("the queue is full", cluster.timeout(), &20, ready).await?;
    let waiting = system.count("select count(*) from outbox").await?;
    system.add_evidence(format!("{waiting} events rejected"));
    system.expect("events rejected", &(waiting > 0), &true);
    let mut subscriber = Subscriber::default();
    wait_until("the queue is drained", cluster.timeout(), async || {
        subscriber.drain(&channel, &full).await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
        anyhow::Ok(system.count("select count(*) from outbox").await? == 0)
    })
    .await?;
    subscriber.drain(&channel, &full).await?;
    let all: Vec<_> = (1..=60).map(|sequence| ("LAMP".to_owned(), sequence)).collect();
    system.expect("events accepted by the subscriber", &subscriber.accepted, &all);
    channel.queue_delete(full.as_str().into(), QueueDeleteOptions::default()).await?;
    system.finish(vec![program]).await
}

/// A subscriber that follows the rule of the README: for each SKU it accepts the next event in sequence and drops any
/// other.
#[derive(Default)]
struct Subscriber {
    /// Accepted SKUs and sequences, in order.
    accepted: Vec<(String, i64)>,
    last: HashMap<String, i64>,
}

impl Subscriber {
    /// Consumes all messages of a queue.
    async fn drain(&mut self, channel: &Channel, queue: &str) -> anyhow::Result<()> {
        while let Some(got) = channel.basic_get(queue.into(), BasicGetOptions::default()).await? {
            self.receive(&got.delivery.properties).context("an event must have its headers")?;
            got.delivery.acker.ack(BasicAckOptions::default()).await?;
        }
        Ok(())
    }

    fn receive(&mut self, properties: &BasicProperties) -> Option<()> {
        let headers = properties.headers().as_ref()?.inner();
        let AMQPValue::LongString(sku) = headers.get("aggregate_id")? else { return None };
        let AMQPValue::LongLongInt(sequence) = headers.get("sequence")? else { return None };
        let last = self.last.entry(sku.to_string()).or_default();
        if *sequence == *last + 1 {
            *last = *sequence;
            self.accepted.push((sku.to_string(), *sequence));
        }
        Some(())
    }
}

/// Events without a bound queue are confirmed, removed and counted, and do not delay others.
pub(super) async fn unroutable_events(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "unroutable_events").await?;
    let channel = system.broker_client.channel().await?;
    let (observer, events) = (system.qualified("observer"), system.qualified("events"));
    let (all, no_arguments) = ("#", FieldTable::default());
    let unbound = channel.queue_unbind(
        observer.as_str().into(),
        events.as_str().into(),
        all.into(),
        no_arguments.clone(),
    );
    unbound.await?;
    // Without a command, so that the checker does not expect them.
    let insert_events = "insert into outbox (name, sku, sequence, body, causation_id, correlation_id)
                         select 'allocated', 'UNROUTABLE', sequence, '{}', 'none', 'none'
                         from generate_series(1, 30) as sequence";
    system.execute(insert_events).await?;
    let mut program = system.start_all_roles()?;
    let unroutable = async || system.count("select unroutable from relay_state").await;
    wait_until_equal("the unroutable events are counted", cluster.timeout(), &30, unroutable).await?;
    system.add_evidence("30 unroutable events".into());
    system.expect("left in the outbox", &system.count("select count(*) from outbox").await?, &0);
    let bind = QueueBindOptions::default();
    channel.queue_bind(observer.into(), events.into(), all.into(), bind, no_arguments).await?;
    system.send(&order_lines("LAMP", "line", 20)).await?;
    system.wait_handled(20).await?;
    system.expect("alive", &program.is_alive(), &true);
    system.finish(vec![program]).await
}

async fn declare_small_queue(system: &TestSystem<'_>, channel: &Channel, name: &str) -> anyhow::Result<()> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(20));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    channel.queue_declare(name.into(), QueueDeclareOptions::durable(), arguments).await?;
    let (events, bind) = (system.qualified("events"), QueueBindOptions::default());
    channel.queue_bind(name.into(), events.into(), "allocated".into(), bind, FieldTable::default()).await?;
    Ok(())
}

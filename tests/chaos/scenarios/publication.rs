//! Connections to the broker that break at an exact frame, and a queue that does not take what it is given.

use std::{collections::HashMap, time::Duration};

use anyhow::Context as _;
use lapin::{
    BasicProperties, Channel,
    options::{BasicAckOptions, BasicGetOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};

use super::relay_deaths::published_again;
use crate::{
    command::lines_of,
    lab::Lab,
    protocol::Moment,
    proxy::{Cut, Proxy},
    verdict::Verdict,
    wait::{until, until_is},
    world::World,
};

/// The broker has the events and says so, but nobody hears it: they are published again.
pub(super) async fn confirm_lost(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "confirm_lost").await?;
    torn(world, "worker,relay", Cut::Before, Moment::Confirmation).await
}

pub(super) async fn publication_torn(lab: &Lab) -> anyhow::Result<Verdict> {
    torn(World::new(lab, "publication_torn").await?, "worker,relay", Cut::Inside, Moment::Body).await
}

/// The commit is done, its acknowledgement lost: the repeat has no effect.
pub(super) async fn acknowledgement_lost(lab: &Lab) -> anyhow::Result<Verdict> {
    torn(World::new(lab, "acknowledgement_lost").await?, "worker", Cut::Before, Moment::Acknowledgement).await
}

pub(super) async fn cut_after_confirm(lab: &Lab) -> anyhow::Result<Verdict> {
    torn(World::new(lab, "cut_after_confirm").await?, "worker,relay", Cut::After, Moment::Confirmation).await
}

pub(super) async fn cut_after_acknowledgement(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "cut_after_acknowledgement").await?;
    torn(world, "worker", Cut::After, Moment::Acknowledgement).await
}

/// The connection of a process breaks once, and the process goes on by itself.
async fn torn(world: World<'_>, roles: &str, cut: Cut, moment: Moment) -> anyhow::Result<Verdict> {
    let proxy = Proxy::to(&world.lab.rabbit.url()).await?;
    let mut programs = vec![world.start(roles, &[("AMQP_URL", proxy.url())])?];
    if !roles.contains("relay") {
        programs.push(world.start("relay", &[])?);
    }
    proxy.trap(cut, moment, 0);
    world.send(&lines_of("LAMP", "line", 60)).await?;
    until("the connection breaks", world.lab.patience(), async || anyhow::Ok(proxy.sprung() > 0)).await?;
    world.hit(format!("cut at {moment:?}"));
    world.wait_handled(60).await?;
    if moment == Moment::Acknowledgement && cut == Cut::Before {
        let again = async || anyhow::Ok(world.redeliveries().await? > 0);
        until("handled messages come again", world.lab.patience(), again).await?;
    }
    if moment == Moment::Confirmation && cut == Cut::Before {
        let again = async || anyhow::Ok(published_again(&world) > 0);
        until("events come again", world.lab.patience(), again).await?;
    }
    world.expect("failed attempts", &world.failed_attempts().await?, &0);
    world.expect("alive", &programs[0].is_alive(), &true);
    world.finish(programs).await
}

/// A subscriber's queue that holds twenty events gets sixty, in the order in which a subscriber takes them.
pub(super) async fn subscriber_queue_full(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "subscriber_queue_full").await?;
    // What came before its predecessor, because that was refused, does not count.
    world.refusals.set(true);
    let channel = world.link.channel().await?;
    let full = world.named("full");
    small_queue(&world, &channel, &full).await?;
    let program = world.healthy()?;
    world.send(&lines_of("LAMP", "line", 60)).await?;
    world.wait_handled(60).await?;
    let refused = async || world.link.ready(&full).await;
    until_is("the queue is full", lab.patience(), &20, refused).await?;
    let waiting = world.count("select count(*) from outbox").await?;
    world.hit(format!("{waiting} events refused"));
    world.expect("events refused", &(waiting > 0), &true);
    let mut subscriber = Subscriber::default();
    until("it is emptied as it fills", lab.patience(), async || {
        subscriber.empty(&channel, &full).await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
        anyhow::Ok(world.count("select count(*) from outbox").await? == 0)
    })
    .await?;
    subscriber.empty(&channel, &full).await?;
    let all: Vec<_> = (1..=60).map(|sequence| ("LAMP".to_owned(), sequence)).collect();
    world.expect("what a subscriber takes", &subscriber.took, &all);
    channel.queue_delete(full.as_str().into(), QueueDeleteOptions::default()).await?;
    world.finish(vec![program]).await
}

/// Somebody who keeps the README's rule: of each SKU the next event is taken, and whatever else comes is dropped.
#[derive(Default)]
struct Subscriber {
    /// SKUs and sequences, in the order in which they were taken.
    took: Vec<(String, i64)>,
    last: HashMap<String, i64>,
}

impl Subscriber {
    /// Gets everything that is in a queue.
    async fn empty(&mut self, channel: &Channel, queue: &str) -> anyhow::Result<()> {
        while let Some(got) = channel.basic_get(queue.into(), BasicGetOptions::default()).await? {
            self.see(&got.delivery.properties).context("an event has its headers")?;
            got.delivery.acker.ack(BasicAckOptions::default()).await?;
        }
        Ok(())
    }

    fn see(&mut self, properties: &BasicProperties) -> Option<()> {
        let headers = properties.headers().as_ref()?.inner();
        let AMQPValue::LongString(sku) = headers.get("aggregate_id")? else { return None };
        let AMQPValue::LongLongInt(sequence) = headers.get("sequence")? else { return None };
        let last = self.last.entry(sku.to_string()).or_default();
        if *sequence == *last + 1 {
            *last = *sequence;
            self.took.push((sku.to_string(), *sequence));
        }
        Some(())
    }
}

/// Events for which nobody has bound a queue are confirmed, removed and counted, and hold up nobody.
pub(super) async fn events_nobody_wants(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "events_nobody_wants").await?;
    let channel = world.link.channel().await?;
    let (observer, events) = (world.named("observer"), world.named("events"));
    let (all, nothing) = ("#", FieldTable::default());
    let unbound =
        channel.queue_unbind(observer.as_str().into(), events.as_str().into(), all.into(), nothing.clone());
    unbound.await?;
    // Of no command, so that the checker misses none of them.
    let unwanted = "insert into outbox (name, sku, sequence, body, causation_id, correlation_id)
                    select 'allocated', 'NOBODYS', sequence, '{}', 'nobody', 'nobody'
                    from generate_series(1, 30) as sequence";
    world.execute(unwanted).await?;
    let mut program = world.healthy()?;
    let unroutable = async || world.count("select unroutable from relay_state").await;
    until_is("they are counted", lab.patience(), &30, unroutable).await?;
    world.hit("30 events that nobody wants".into());
    world.expect("left in the outbox", &world.count("select count(*) from outbox").await?, &0);
    let bind = QueueBindOptions::default();
    channel.queue_bind(observer.into(), events.into(), all.into(), bind, nothing).await?;
    world.send(&lines_of("LAMP", "line", 20)).await?;
    world.wait_handled(20).await?;
    world.expect("alive", &program.is_alive(), &true);
    world.finish(vec![program]).await
}

async fn small_queue(world: &World<'_>, channel: &Channel, name: &str) -> anyhow::Result<()> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(20));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    channel.queue_declare(name.into(), QueueDeclareOptions::durable(), arguments).await?;
    let (events, bind) = (world.named("events"), QueueBindOptions::default());
    channel.queue_bind(name.into(), events.into(), "allocated".into(), bind, FieldTable::default()).await?;
    Ok(())
}

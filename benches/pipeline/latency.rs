//! How soon: from the moment a command is due to the arrival of its event, while commands come at a steady rate.

use std::{
    thread,
    time::{Duration, Instant},
};

use sqlx::{Connection as _, PgConnection};
use tokio::sync::mpsc::{self, UnboundedReceiver};

use crate::{
    broker::{self, Events, Sender, confirmed},
    commands::{SKUS, Spread, allocate, order_of, sku},
    figures::{middle, per_mille},
    lab::{Lab, STOCKED},
    world::World,
};

/// How long each rate is kept up.
const SECONDS: u32 = 10;
/// Connections are made, statements prepared and caches filled before anything is measured.
const WARMING_UP: u32 = 500;
/// Steps that are measured alone, and those before that are not.
const ALONE: usize = 200;
const ALONE_WARMING_UP: usize = 20;

/// How soon the events of one rate came.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Soon {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) p999: Duration,
}

/// What a command cannot do without, each measured with nothing else going on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Steps {
    /// A message is published to a quorum queue and confirmed.
    pub(crate) publication: Duration,
    /// A small row is committed.
    pub(crate) commit: Duration,
}

/// How soon the events came at each rate, and what the steps take on the same servers at that time.
pub(crate) async fn latency<const N: usize>(
    lab: &Lab,
    rates: [u32; N],
) -> anyhow::Result<([Soon; N], Steps)> {
    let world = lab.world(STOCKED).await?;
    let steps = steps(&world).await?;
    let (observer, sender) = (world.observer().await?, world.sender().await?);
    let mut events = observer.subscribe().await?;
    let running = world.run(&[])?;
    sender.send_all(Spread::Even.commands(0, WARMING_UP)).await?;
    arrivals(&mut events, 0, WARMING_UP).await?;
    let (mut soon, mut first) = ([Soon::default(); N], WARMING_UP);
    for (soon, rate) in soon.iter_mut().zip(rates) {
        *soon = at_rate(&sender, &mut events, first, rate).await?;
        first += rate * SECONDS;
    }
    running.stop().await?;
    world.close().await?;
    Ok((soon, steps))
}

/// The schedule is fixed: a command that is late counts from when it was due, and keeps none behind it waiting.
async fn at_rate(sender: &Sender, events: &mut Events, first: u32, rate: u32) -> anyhow::Result<Soon> {
    let (begin, interval, count) = (Instant::now(), Duration::from_secs(1) / rate, rate * SECONDS);
    let sending = send(sender, schedule(begin, interval, count), first);
    let (arrivals, ()) = tokio::try_join!(arrivals(events, first, count), sending)?;
    let dues = (0..count).map(|number| begin + interval * number);
    let mut took: Vec<_> = arrivals.into_iter().zip(dues).map(|(arrival, due)| arrival - due).collect();
    took.sort_unstable();
    Ok(Soon { p50: per_mille(&took, 500), p99: per_mille(&took, 990), p999: per_mille(&took, 999) })
}

/// Says when each command is due: from a thread of its own, for the runtime's timer counts whole milliseconds.
fn schedule(begin: Instant, interval: Duration, count: u32) -> UnboundedReceiver<u32> {
    let (due, schedule) = mpsc::unbounded_channel();
    thread::spawn(move || {
        for number in 0..count {
            thread::sleep((begin + interval * number).saturating_duration_since(Instant::now()));
            if due.send(number).is_err() {
                return;
            }
        }
    });
    schedule
}

/// Confirms are looked at in the end: nobody waits for one before the next command.
async fn send(sender: &Sender, mut schedule: UnboundedReceiver<u32>, first: u32) -> anyhow::Result<()> {
    let mut confirms = Vec::new();
    while let Some(number) = schedule.recv().await {
        let command = allocate(first + number, &sku(1 + number % SKUS));
        confirms.push(sender.publish(&command).await?);
    }
    for confirm in confirms {
        confirmed(confirm).await?;
    }
    Ok(())
}

/// When the event of each of so many orders arrived, in the order of their numbers.
async fn arrivals(events: &mut Events, first: u32, count: u32) -> anyhow::Result<Vec<Instant>> {
    let mut arrivals: Vec<Option<Instant>> = vec![None; usize::try_from(count)?];
    let mut missing = arrivals.len();
    while missing > 0 {
        let event = events.next().await?;
        let now = Instant::now();
        let place = order_of(&event.data).and_then(|order| usize::try_from(order.checked_sub(first)?).ok());
        let Some(arrival) = place.and_then(|place| arrivals.get_mut(place)) else { continue };
        // An event may be published twice.
        if arrival.is_none() {
            *arrival = Some(now);
            missing -= 1;
        }
    }
    Ok(arrivals.into_iter().flatten().collect())
}

async fn steps(world: &World<'_>) -> anyhow::Result<Steps> {
    let mut session = world.session().await?;
    sqlx::raw_sql("create table small_rows (number bigint)").execute(&mut session).await?;
    let steps = Steps {
        publication: publication(world).await?,
        commit: median(async || commit(&mut session).await).await?,
    };
    session.close().await?;
    Ok(steps)
}

async fn publication(world: &World<'_>) -> anyhow::Result<Duration> {
    let (queue, message) = (world.named("alone"), allocate(0, &sku(1)));
    broker::declare(&world.lab().publishing.create_channel().await?, &queue).await?;
    let sender = world.sender().await?;
    median(async || confirmed(sender.publish_to("", &queue, &message).await?).await).await
}

async fn commit(session: &mut PgConnection) -> anyhow::Result<()> {
    sqlx::query("insert into small_rows values (1)").execute(session).await?;
    Ok(())
}

async fn median(mut step: impl AsyncFnMut() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    for _ in 0..ALONE_WARMING_UP {
        step().await?;
    }
    let mut took = Vec::with_capacity(ALONE);
    for _ in 0..ALONE {
        let begin = Instant::now();
        step().await?;
        took.push(begin.elapsed());
    }
    Ok(middle(took))
}

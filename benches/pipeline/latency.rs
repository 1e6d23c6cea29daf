//! Latency: from the moment a command is due to the arrival of its event, at a steady rate.

use std::{
    thread,
    time::{Duration, Instant},
};

use sqlx::{Connection as _, PgConnection};
use tokio::sync::mpsc::{self, UnboundedReceiver};

use crate::{
    broker::{self, Events, Sender, confirmed},
    commands::{SKUS, SkuDistribution, allocate, order_of, sku},
    figures::{middle, per_mille},
    servers::{BenchServers, STOCKED},
    system::BenchSystem,
};

/// The duration of each rate.
const SECONDS: u32 = 10;
/// Commands before the measurement: they open connections, prepare statements and fill caches.
const WARM_UP: u32 = 500;
/// Repetitions of a single step, and those before them that are not measured.
const ALONE: usize = 200;
const ALONE_WARM_UP: usize = 20;

/// The latency of the events at one rate.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Percentiles {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) p999: Duration,
}

/// The steps that every command needs, each measured alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Steps {
    /// A confirmed publish to a quorum queue.
    pub(crate) publication: Duration,
    /// A commit of a small row.
    pub(crate) commit: Duration,
}

/// The latency at each rate, and the duration of the single steps on the same servers at that time.
pub(crate) async fn latency<const N: usize>(
    servers: &BenchServers,
    rates: [u32; N],
) -> anyhow::Result<([Percentiles; N], Steps)> {
    let system = BenchSystem::with_copy_of(servers, STOCKED).await?;
    let steps = steps(&system).await?;
    let (observer, sender) = (system.observer().await?, system.sender().await?);
    let mut events = observer.subscribe().await?;
    let running = system.run(&[])?;
    sender.send_all(SkuDistribution::Even.commands(0, WARM_UP)).await?;
    arrivals(&mut events, 0, WARM_UP).await?;
    let (mut percentiles, mut first) = ([Percentiles::default(); N], WARM_UP);
    for (percentiles, rate) in percentiles.iter_mut().zip(rates) {
        *percentiles = at_rate(&sender, &mut events, first, rate).await?;
        first += rate * SECONDS;
    }
    running.stop().await?;
    system.close().await?;
    Ok((percentiles, steps))
}

/// The schedule is fixed: the latency of a late command counts from its due time, and later commands do not wait for it.
async fn at_rate(sender: &Sender, events: &mut Events, first: u32, rate: u32) -> anyhow::Result<Percentiles> {
    let (begin, interval, count) = (Instant::now(), Duration::from_secs(1) / rate, rate * SECONDS);
    let sending = send(sender, schedule(begin, interval, count), first);
    let (arrivals, ()) = tokio::try_join!(arrivals(events, first, count), sending)?;
    let dues = (0..count).map(|number| begin + interval * number);
    let mut took: Vec<_> = arrivals.into_iter().zip(dues).map(|(arrival, due)| arrival - due).collect();
    took.sort_unstable();
    Ok(Percentiles { p50: per_mille(&took, 500), p99: per_mille(&took, 990), p999: per_mille(&took, 999) })
}

/// Sends the number of each command when it is due. It uses a thread, since the timer of the runtime has a resolution of one
/// millisecond.
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

/// Publishes without waiting for confirms, and checks them at the end.
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

/// The arrival times of the events of `count` orders, by order number.
async fn arrivals(events: &mut Events, first: u32, count: u32) -> anyhow::Result<Vec<Instant>> {
    let mut arrivals: Vec<Option<Instant>> = vec![None; usize::try_from(count)?];
    let mut missing = arrivals.len();
    while missing > 0 {
        let event = events.next().await?;
        let now = Instant::now();
        let index = order_of(&event.data).and_then(|order| usize::try_from(order.checked_sub(first)?).ok());
        let Some(arrival) = index.and_then(|index| arrivals.get_mut(index)) else { continue };
        // An event may be published twice.
        if arrival.is_none() {
            *arrival = Some(now);
            missing -= 1;
        }
    }
    Ok(arrivals.into_iter().flatten().collect())
}

async fn steps(system: &BenchSystem<'_>) -> anyhow::Result<Steps> {
    let mut session = system.session().await?;
    sqlx::raw_sql("create table small_rows (number bigint)").execute(&mut session).await?;
    let steps = Steps {
        publication: publication(system).await?,
        commit: median(async || commit(&mut session).await).await?,
    };
    session.close().await?;
    Ok(steps)
}

async fn publication(system: &BenchSystem<'_>) -> anyhow::Result<Duration> {
    let (queue, message) = (system.named("alone"), allocate(0, &sku(1)));
    broker::declare(&system.servers().publishing.create_channel().await?, &queue).await?;
    let sender = system.sender().await?;
    median(async || confirmed(sender.publish_to("", &queue, &message).await?).await).await
}

async fn commit(session: &mut PgConnection) -> anyhow::Result<()> {
    sqlx::query("insert into small_rows values (1)").execute(session).await?;
    Ok(())
}

async fn median(mut step: impl AsyncFnMut() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    for _ in 0..ALONE_WARM_UP {
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

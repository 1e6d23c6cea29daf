//! Databases with a past, and how the program gets on in them.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use sqlx::PgPool;

use crate::{
    broker::confirmed,
    commands::{SKUS, Spread, create_batch},
    figures::middle,
    lab::Lab,
    throughput::{Throughput, drain},
    world::World,
};

const FEW: i64 = 1000;
const MANY: i64 = 1_000_000;
/// The SKU of which lines wait; none of those that are measured.
const LATE: &str = "SKU-LATE";
/// Batches of one unit that arrive for it, one after the other.
const ARRIVALS: usize = 50;
/// Every line is shown.
const VIEW: &str = "
    insert into allocations_view (orderid, sku, qty, batchref) select orderid, sku, qty, batchref from order_lines";

/// What there are a million of; of everything else there are a thousand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Growth {
    Nothing,
    Allocations,
    Backorders,
    Handled,
}

/// What a measurement of growth comes to.
pub(crate) struct Grown {
    pub(crate) throughput: Throughput,
    /// From a batch of one unit to the event of the line that was waiting for it.
    pub(crate) arrival: Duration,
}

impl Growth {
    /// What is to be seen in a report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nothing => "1,000 of everything",
            Self::Allocations => "1,000,000 allocations",
            Self::Backorders => "1,000,000 backorders of one SKU",
            Self::Handled => "1,000,000 inbox rows",
        }
    }

    /// The database that is copied for each measurement.
    pub(crate) fn template(self) -> &'static str {
        match self {
            Self::Nothing => "grown_not",
            Self::Allocations => "grown_allocations",
            Self::Backorders => "grown_backorders",
            Self::Handled => "grown_handled",
        }
    }

    fn rows(self, of: Self) -> i64 {
        if self == of { MANY } else { FEW }
    }

    /// Fills a database in which nothing but batches is, as if the commands had been handled.
    pub(crate) async fn fill(self, pool: &PgPool) -> anyhow::Result<()> {
        let scripts = [
            allocated(self.rows(Self::Allocations)),
            waiting(self.rows(Self::Backorders)),
            handled(self.rows(Self::Handled)),
            VIEW.to_owned(),
            "vacuum analyze".to_owned(),
        ];
        for script in &scripts {
            sqlx::raw_sql(script).execute(pool).await.with_context(|| format!("filling: {script}"))?;
        }
        Ok(())
    }

    /// Throughput as end to end; then batches for the lines that wait.
    pub(crate) async fn measure(self, lab: &Lab, commands: u32) -> anyhow::Result<Grown> {
        let world = lab.world(self.template()).await?;
        let (throughput, running) = drain(&world, (Spread::Even, commands), &[]).await?;
        let arrival = arrival(&world).await?;
        running.stop().await?;
        world.close().await?;
        Ok(Grown { throughput, arrival })
    }
}

/// The median over batches of one unit, each sent when the last has found its line.
async fn arrival(world: &World<'_>) -> anyhow::Result<Duration> {
    let (sender, mut events) = (world.sender().await?, world.observer().await?.subscribe().await?);
    let mut took = Vec::with_capacity(ARRIVALS);
    for number in 1..=ARRIVALS {
        let batch = create_batch(&format!("late-{number}"), LATE, 1);
        let begin = Instant::now();
        let confirm = sender.publish(&batch).await?;
        events.next().await.context("the line that waits longest was not allocated")?;
        took.push(begin.elapsed());
        confirmed(confirm).await?;
    }
    Ok(middle(took))
}

/// Lines of one unit, spread over the SKUs; their orders sort before those of the measurement, as older numbers do.
fn allocated(lines: i64) -> String {
    format!(
        "insert into order_lines (orderid, sku, qty, place, batchref)
         select 'old-' || lpad(i::text, 9, '0'), 'SKU-' || (1 + i % {SKUS}), 1, 1 + i / {SKUS},
                'batch-' || (1 + i % {SKUS})
         from generate_series(0, {lines} - 1) as i;
         update batches as b set allocated = held.units
         from (select batchref, sum(qty) as units from order_lines group by batchref) as held
         where b.ref = held.batchref;
         update products as p
         set version = p.version + held.lines, event_sequence = p.event_sequence + held.lines, last_place = held.lines
         from (select sku, count(*) as lines from order_lines group by sku) as held
         where p.sku = held.sku"
    )
}

/// Quantities from 1 to 10 in turn, so that a batch of one unit has lines to pass over.
fn waiting(lines: i64) -> String {
    format!(
        "insert into products (sku, version, event_sequence, last_place, backordered)
         select '{LATE}', 1 + {lines}, {lines}, {lines}, sum(1 + i % 10) from generate_series(1, {lines}) as i;
         insert into batches (ref, sku, ordered, purchased, allocated) values ('late-0', '{LATE}', 0, 0, 0);
         insert into order_lines (orderid, sku, qty, place)
         select 'late-' || lpad(i::text, 9, '0'), '{LATE}', 1 + i % 10, i from generate_series(1, {lines}) as i"
    )
}

fn handled(messages: i64) -> String {
    format!(
        "insert into inbox (queue, message_id, fingerprint)
         select 'orders', 'allocate old-' || lpad(i::text, 9, '0'), sha256(convert_to(i::text, 'UTF8'))
         from generate_series(1, {messages}) as i"
    )
}

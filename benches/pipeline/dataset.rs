//! Databases with many rows, and the speed of the program on them.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use sqlx::PgPool;

use crate::{
    broker::confirmed,
    commands::{SKUS, SkuDistribution, create_batch},
    figures::middle,
    servers::BenchServers,
    system::BenchSystem,
    throughput::{Throughput, drain},
};

const FEW: i64 = 1000;
const MANY: i64 = 1_000_000;
/// The SKU with backorders; the throughput is measured with other SKUs.
const LATE: &str = "SKU-LATE";
/// Batches of one unit that are created for it, one after the other.
const ARRIVALS: usize = 50;
/// The read model of all lines.
const VIEW: &str = "
    insert into allocations_view (orderid, sku, qty, batchref) select orderid, sku, qty, batchref from order_lines";

/// The table with a million rows; every other one has a thousand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dataset {
    Small,
    Allocations,
    Backorders,
    Handled,
}

/// The result of a measurement on a dataset.
pub(crate) struct DatasetResult {
    pub(crate) throughput: Throughput,
    /// From a batch of one unit to the event of the backorder that it is allocated to.
    pub(crate) arrival: Duration,
}

impl Dataset {
    /// Its name in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Small => "1,000 of everything",
            Self::Allocations => "1,000,000 allocations",
            Self::Backorders => "1,000,000 backorders of one SKU",
            Self::Handled => "1,000,000 inbox rows",
        }
    }

    /// The database that each measurement copies.
    pub(crate) fn template(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Allocations => "allocations",
            Self::Backorders => "backorders",
            Self::Handled => "handled",
        }
    }

    fn rows(self, of: Self) -> i64 {
        if self == of { MANY } else { FEW }
    }

    /// Fills a database that contains only batches, with the rows that the commands would have written.
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

    /// Measures the throughput, then the time from a batch to its backorder.
    pub(crate) async fn measure(
        self,
        servers: &BenchServers,
        commands: u32,
    ) -> anyhow::Result<DatasetResult> {
        let system = BenchSystem::with_copy_of(servers, self.template()).await?;
        let (throughput, running) = drain(&system, (SkuDistribution::Even, commands), &[]).await?;
        let arrival = arrival(&system).await?;
        running.stop().await?;
        system.close().await?;
        Ok(DatasetResult { throughput, arrival })
    }
}

/// The median over batches of one unit, each sent when the previous one is allocated.
async fn arrival(system: &BenchSystem<'_>) -> anyhow::Result<Duration> {
    let (sender, mut events) = (system.sender().await?, system.observer().await?.subscribe().await?);
    let mut took = Vec::with_capacity(ARRIVALS);
    for number in 1..=ARRIVALS {
        let batch = create_batch(&format!("late-{number}"), LATE, 1);
        let begin = Instant::now();
        let confirm = sender.publish(&batch).await?;
        events.next().await.context("the oldest backorder was not allocated")?;
        took.push(begin.elapsed());
        confirmed(confirm).await?;
    }
    Ok(middle(took))
}

/// Lines of one unit, evenly distributed over the SKUs. Their order ids sort before those of the measurement, like older
/// numbers.
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

/// Quantities from 1 to 10 in turn, so that a batch of one unit skips lines.
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

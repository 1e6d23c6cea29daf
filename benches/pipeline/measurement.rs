//! Every measurement, and the names of its figures.

use crate::{
    commands::SkuDistribution,
    dataset::Dataset,
    figures::{Figures, milliseconds},
    idle::idle_cost,
    large::peak_memory,
    latency::{Percentiles, latency},
    pgbench,
    servers::{BenchServers, STOCKED},
    startup::startup,
    throughput::throughput,
};

pub(crate) const END_TO_END: &str = "end to end, commands/s";
pub(crate) const CPU: &str = "CPU seconds per 1,000 commands";
pub(crate) const PEAK: &str = "peak memory, MiB";
pub(crate) const PGBENCH: &str = "transactions of one command by pgbench, per second";
pub(crate) const ONE_BY_ONE: &str = "worker.max_batch = 1, commands/s";
pub(crate) const SLOW: [&str; 3] =
    ["100 commands/s: p50, ms", "100 commands/s: p99, ms", "100 commands/s: p99.9, ms"];
pub(crate) const FAST: [&str; 3] =
    ["1,000 commands/s: p50, ms", "1,000 commands/s: p99, ms", "1,000 commands/s: p99.9, ms"];
pub(crate) const STEPS: [&str; 3] = [
    "alone: a confirmed publish to a quorum queue, ms",
    "alone: a commit of a small row, ms",
    "alone: a publish, a commit, a publish, ms",
];
pub(crate) const ONE_HOT: &str = "all commands for one SKU, commands/s";
pub(crate) const TEN_HOT: &str = "90 % for ten SKUs, commands/s";
/// Throughput, and the time from a batch of one unit to its backorder.
pub(crate) const DATASETS: [(Dataset, &str, &str); 4] = [
    (Dataset::Small, "1,000 of everything, commands/s", "1,000 backorders: batch of 1 to its event, ms"),
    (
        Dataset::Allocations,
        "1,000,000 allocations, commands/s",
        "1,000,000 allocations: batch of 1 to its event, ms",
    ),
    (
        Dataset::Backorders,
        "1,000,000 backorders, commands/s",
        "1,000,000 backorders: batch of 1 to its event, ms",
    ),
    (
        Dataset::Handled,
        "1,000,000 inbox rows, commands/s",
        "1,000,000 inbox rows: batch of 1 to its event, ms",
    ),
];
pub(crate) const IDLE_CPU: &str = "idle, % of a core";
pub(crate) const IDLE_QUERIES: &str = "idle, queries/s";
pub(crate) const VERSION: &str = "allocation --version, ms";
pub(crate) const FIRST_EVENT: &str = "start to first event, ms";
pub(crate) const SIZE: &str = "size of the program, MiB";
pub(crate) const LARGE: [&str; 4] = [
    "3,000 commands of 261 KB: peak memory, MiB",
    "then 1,500 dead letters of 261 KB: peak memory, MiB",
    "then their retries: peak memory, MiB",
    "50 messages of 8 MiB: peak memory, MiB",
];

/// Every unit of work waits for the disk: a tenth of the commands takes about as long.
const ONE_BY_ONE_FRACTION: u32 = 10;

/// A measurement that every round makes once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measurement {
    EndToEnd,
    Pgbench,
    OneByOne,
    Latency,
    Hot(SkuDistribution),
    Dataset(Dataset),
    Idle,
    Startup,
    LargeMessages,
}

impl Measurement {
    pub(crate) const ALL: [Self; 13] = [
        Self::EndToEnd,
        Self::Pgbench,
        Self::OneByOne,
        Self::Hot(SkuDistribution::OneHot),
        Self::Hot(SkuDistribution::TenHot),
        Self::Dataset(Dataset::Small),
        Self::Dataset(Dataset::Allocations),
        Self::Dataset(Dataset::Backorders),
        Self::Dataset(Dataset::Handled),
        Self::Latency,
        Self::Idle,
        Self::Startup,
        Self::LargeMessages,
    ];

    /// The part that it belongs to.
    pub(crate) fn part(self) -> char {
        match self {
            Self::EndToEnd => 'a',
            Self::Pgbench => 'b',
            Self::OneByOne => 'c',
            Self::Latency => 'd',
            Self::Hot(_) => 'e',
            Self::Dataset(_) => 'f',
            Self::Idle => 'g',
            Self::Startup => 'h',
            Self::LargeMessages => 'm',
        }
    }

    /// Its name in progress messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::EndToEnd => "end to end",
            Self::Pgbench => "pgbench baseline",
            Self::OneByOne => "one command per unit of work",
            Self::Latency => "latency",
            Self::Hot(SkuDistribution::OneHot) => "one hot SKU",
            Self::Hot(_) => "ten hot SKUs",
            Self::Dataset(dataset) => dataset.name(),
            Self::Idle => "idle",
            Self::Startup => "start-up",
            Self::LargeMessages => "large messages",
        }
    }

    /// The dataset that it needs.
    pub(crate) fn dataset(self) -> Option<Dataset> {
        if let Self::Dataset(dataset) = self { Some(dataset) } else { None }
    }

    /// Measures once and adds the figures; returns the main one as text.
    pub(crate) async fn measure(
        self,
        servers: &BenchServers,
        commands: u32,
        figures: &mut Figures,
    ) -> anyhow::Result<String> {
        match self {
            Self::EndToEnd => end_to_end(servers, commands, figures).await,
            Self::Pgbench => pgbench_baseline(servers, figures).await,
            Self::OneByOne => {
                let work = (SkuDistribution::Even, commands / ONE_BY_ONE_FRACTION);
                let one_by_one = [("ALLOCATION__WORKER__MAX_BATCH", "1")];
                let measured = throughput(servers, STOCKED, work, &one_by_one).await?;
                Ok(shown(figures, ONE_BY_ONE, measured.commands_per_second))
            }
            Self::Latency => latencies(servers, figures).await,
            Self::Hot(skus) => {
                let name = if skus == SkuDistribution::OneHot { ONE_HOT } else { TEN_HOT };
                let measured = throughput(servers, STOCKED, (skus, commands), &[]).await?;
                Ok(shown(figures, name, measured.commands_per_second))
            }
            Self::Dataset(dataset) => on_dataset(dataset, servers, commands, figures).await,
            Self::Idle => {
                let idle = idle_cost(servers).await?;
                figures.add(IDLE_QUERIES, idle.queries_per_second);
                Ok(shown(figures, IDLE_CPU, idle.percent_of_a_core))
            }
            Self::Startup => {
                let startup = startup(servers).await?;
                figures.add(VERSION, milliseconds(startup.version));
                figures.add(SIZE, startup.mebibytes);
                Ok(shown(figures, FIRST_EVENT, milliseconds(startup.first_event)))
            }
            Self::LargeMessages => {
                let peak = peak_memory(servers).await?;
                let [commands, dead_letters, retries, too_large] = LARGE;
                figures.add(commands, peak.commands);
                figures.add(dead_letters, peak.dead_letters);
                figures.add(too_large, peak.too_large);
                Ok(shown(figures, retries, peak.retries))
            }
        }
    }
}

async fn end_to_end(servers: &BenchServers, commands: u32, figures: &mut Figures) -> anyhow::Result<String> {
    let measured = throughput(servers, STOCKED, (SkuDistribution::Even, commands), &[]).await?;
    figures.add(CPU, measured.cpu_seconds_per_thousand);
    figures.add(PEAK, measured.peak_mebibytes);
    Ok(shown(figures, END_TO_END, measured.commands_per_second))
}

async fn pgbench_baseline(servers: &BenchServers, figures: &mut Figures) -> anyhow::Result<String> {
    match pgbench::transactions_per_second(servers).await? {
        Some(transactions) => Ok(shown(figures, PGBENCH, transactions)),
        None => Ok("skipped: pgbench is missing (Debian has it in the package postgresql)".to_owned()),
    }
}

async fn latencies(servers: &BenchServers, figures: &mut Figures) -> anyhow::Result<String> {
    let ([slow, fast], steps) = latency(servers, [100, 1000]).await?;
    for (names, Percentiles { p50, p99, p999 }) in [(SLOW, slow), (FAST, fast)] {
        for (name, took) in names.into_iter().zip([p50, p99, p999]) {
            figures.add(name, milliseconds(took));
        }
    }
    let sum = steps.publication * 2 + steps.commit;
    for (name, took) in STEPS.into_iter().zip([steps.publication, steps.commit, sum]) {
        figures.add(name, milliseconds(took));
    }
    Ok(format!("{}: {:.2}", SLOW[0], milliseconds(slow.p50)))
}

async fn on_dataset(
    dataset: Dataset,
    servers: &BenchServers,
    commands: u32,
    figures: &mut Figures,
) -> anyhow::Result<String> {
    let result = dataset.measure(servers, commands).await?;
    for (_, name, arrival) in DATASETS.into_iter().filter(|(of, ..)| *of == dataset) {
        figures.add(name, result.throughput.commands_per_second);
        figures.add(arrival, milliseconds(result.arrival));
    }
    Ok(format!("{:.0} commands/s", result.throughput.commands_per_second))
}

/// Adds a figure, and formats it.
fn shown(figures: &mut Figures, name: &'static str, figure: f64) -> String {
    figures.add(name, figure);
    format!("{name}: {figure:.2}")
}

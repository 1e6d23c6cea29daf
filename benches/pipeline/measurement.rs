//! The table of contents: every measurement, and the names of its figures.

use crate::{
    commands::Spread,
    figures::{Figures, milliseconds},
    floor,
    growth::Growth,
    lab::{Lab, STOCKED},
    latency::{Soon, latency},
    rest::rest,
    startup::startup,
    throughput::throughput,
};

pub(crate) const END_TO_END: &str = "end to end, commands/s";
pub(crate) const CPU: &str = "CPU seconds per 1,000 commands";
pub(crate) const PEAK: &str = "peak memory, MiB";
pub(crate) const FLOOR: &str = "transactions of one command by pgbench, per second";
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
pub(crate) const ONE_HOT: &str = "all about one SKU, commands/s";
pub(crate) const TEN_HOT: &str = "90 % about ten SKUs, commands/s";
/// Throughput, and a batch of one unit for lines that wait.
pub(crate) const GROWN: [(Growth, &str, &str); 4] = [
    (Growth::Nothing, "1,000 of everything, commands/s", "1,000 backorders: batch of 1 to its event, ms"),
    (
        Growth::Allocations,
        "1,000,000 allocations, commands/s",
        "1,000,000 allocations: batch of 1 to its event, ms",
    ),
    (
        Growth::Backorders,
        "1,000,000 backorders, commands/s",
        "1,000,000 backorders: batch of 1 to its event, ms",
    ),
    (
        Growth::Handled,
        "1,000,000 inbox rows, commands/s",
        "1,000,000 inbox rows: batch of 1 to its event, ms",
    ),
];
pub(crate) const RESTING_CPU: &str = "at rest, % of a core";
pub(crate) const RESTING_QUERIES: &str = "at rest, queries/s";
pub(crate) const VERSION: &str = "allocation --version, ms";
pub(crate) const FIRST_EVENT: &str = "from the start to the first event, ms";
pub(crate) const SIZE: &str = "the program's file, MiB";

/// One unit of work costs a round trip to the disk, so so many fewer commands take about as long.
const ONE_BY_ONE_PART: u32 = 10;

/// Something that every round measures once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measurement {
    EndToEnd,
    Floor,
    OneByOne,
    Latency,
    Hot(Spread),
    Grown(Growth),
    Rest,
    Startup,
}

impl Measurement {
    pub(crate) const ALL: [Self; 12] = [
        Self::EndToEnd,
        Self::Floor,
        Self::OneByOne,
        Self::Hot(Spread::OneHot),
        Self::Hot(Spread::TenHot),
        Self::Grown(Growth::Nothing),
        Self::Grown(Growth::Allocations),
        Self::Grown(Growth::Backorders),
        Self::Grown(Growth::Handled),
        Self::Latency,
        Self::Rest,
        Self::Startup,
    ];

    /// The part it belongs to, as it is asked for.
    pub(crate) fn part(self) -> char {
        match self {
            Self::EndToEnd => 'a',
            Self::Floor => 'b',
            Self::OneByOne => 'c',
            Self::Latency => 'd',
            Self::Hot(_) => 'e',
            Self::Grown(_) => 'f',
            Self::Rest => 'g',
            Self::Startup => 'h',
        }
    }

    /// What progress calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::EndToEnd => "end to end",
            Self::Floor => "the floor",
            Self::OneByOne => "one command per unit of work",
            Self::Latency => "latency",
            Self::Hot(Spread::OneHot) => "one hot SKU",
            Self::Hot(_) => "ten hot SKUs",
            Self::Grown(growth) => growth.name(),
            Self::Rest => "at rest",
            Self::Startup => "start-up",
        }
    }

    /// The database it needs beside the one that has nothing but batches.
    pub(crate) fn growth(self) -> Option<Growth> {
        if let Self::Grown(growth) = self { Some(growth) } else { None }
    }

    /// Measures once and keeps the figures; returns the first of them in words.
    pub(crate) async fn measure(
        self,
        lab: &Lab,
        commands: u32,
        figures: &mut Figures,
    ) -> anyhow::Result<String> {
        match self {
            Self::EndToEnd => end_to_end(lab, commands, figures).await,
            Self::Floor => floor(lab, figures).await,
            Self::OneByOne => {
                let work = (Spread::Even, commands / ONE_BY_ONE_PART);
                let one_by_one = [("ALLOCATION__WORKER__MAX_BATCH", "1")];
                let measured = throughput(lab, STOCKED, work, &one_by_one).await?;
                Ok(told(figures, ONE_BY_ONE, measured.commands_per_second))
            }
            Self::Latency => latencies(lab, figures).await,
            Self::Hot(spread) => {
                let name = if spread == Spread::OneHot { ONE_HOT } else { TEN_HOT };
                let measured = throughput(lab, STOCKED, (spread, commands), &[]).await?;
                Ok(told(figures, name, measured.commands_per_second))
            }
            Self::Grown(growth) => grown(growth, lab, commands, figures).await,
            Self::Rest => {
                let rest = rest(lab).await?;
                figures.add(RESTING_QUERIES, rest.queries_per_second);
                Ok(told(figures, RESTING_CPU, rest.percent_of_a_core))
            }
            Self::Startup => {
                let startup = startup(lab).await?;
                figures.add(VERSION, milliseconds(startup.version));
                figures.add(SIZE, startup.mebibytes);
                Ok(told(figures, FIRST_EVENT, milliseconds(startup.first_event)))
            }
        }
    }
}

async fn end_to_end(lab: &Lab, commands: u32, figures: &mut Figures) -> anyhow::Result<String> {
    let measured = throughput(lab, STOCKED, (Spread::Even, commands), &[]).await?;
    figures.add(CPU, measured.cpu_seconds_per_thousand);
    figures.add(PEAK, measured.peak_mebibytes);
    Ok(told(figures, END_TO_END, measured.commands_per_second))
}

async fn floor(lab: &Lab, figures: &mut Figures) -> anyhow::Result<String> {
    match floor::transactions_per_second(lab).await? {
        Some(transactions) => Ok(told(figures, FLOOR, transactions)),
        None => Ok("skipped: pgbench is missing (Debian has it in the package postgresql)".to_owned()),
    }
}

async fn latencies(lab: &Lab, figures: &mut Figures) -> anyhow::Result<String> {
    let ([slow, fast], steps) = latency(lab, [100, 1000]).await?;
    for (names, Soon { p50, p99, p999 }) in [(SLOW, slow), (FAST, fast)] {
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

async fn grown(growth: Growth, lab: &Lab, commands: u32, figures: &mut Figures) -> anyhow::Result<String> {
    let grown = growth.measure(lab, commands).await?;
    for (_, name, arrival) in GROWN.into_iter().filter(|(of, ..)| *of == growth) {
        figures.add(name, grown.throughput.commands_per_second);
        figures.add(arrival, milliseconds(grown.arrival));
    }
    Ok(format!("{:.0} commands/s", grown.throughput.commands_per_second))
}

fn told(figures: &mut Figures, name: &'static str, figure: f64) -> String {
    figures.add(name, figure);
    format!("{name}: {figure:.2}")
}

//! The results: a table on standard output, and JSON for comparisons.

use std::{env, fmt, fs, path::PathBuf, thread};

use anyhow::Context as _;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    arguments::Arguments,
    figures::{Figures, median},
    measurement::{
        CPU, DATASETS, END_TO_END, FAST, FIRST_EVENT, IDLE_CPU, IDLE_QUERIES, LARGE, ONE_BY_ONE, ONE_HOT,
        PEAK, PGBENCH, SIZE, SLOW, STEPS, TEN_HOT, VERSION,
    },
    progress::log,
};

/// The goal for a figure.
#[derive(Clone, Copy, Debug)]
enum Goal {
    AtLeast(f64),
    AtMost(f64),
    Below(f64),
}

impl Goal {
    fn is_met_by(self, figure: f64) -> bool {
        match self {
            Self::AtLeast(least) => figure >= least,
            Self::AtMost(most) => figure <= most,
            Self::Below(limit) => figure < limit,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "≥ {least}"),
            Self::AtMost(most) => write!(f, "≤ {most}"),
            Self::Below(limit) => write!(f, "< {limit}"),
        }
    }
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Row {
    part: char,
    name: String,
    /// The median of the rounds, if it was measured.
    value: Option<f64>,
    goal: Option<String>,
    met: Option<bool>,
    rounds: Vec<f64>,
}

impl Row {
    fn new(part: char, name: impl Into<String>, rounds: Vec<f64>) -> Self {
        Self { part, name: name.into(), value: median(&rounds), goal: None, met: None, rounds }
    }

    fn goal(self, goal: Goal) -> Self {
        let met = self.value.map(|value| goal.is_met_by(value));
        Self { goal: Some(goal.to_string()), met, ..self }
    }

    /// An alternative to the goal.
    fn or(self, other: &str, holds: Option<bool>) -> Self {
        let met = self.met.map(|met| met || holds == Some(true));
        Self { goal: self.goal.map(|goal| format!("{goal}, or {other}")), met, ..self }
    }
}

/// Prints the table and writes the file.
pub(crate) fn report(
    figures: &Figures,
    arguments: &Arguments,
    server: &Map<String, Value>,
    complete: bool,
) -> anyhow::Result<()> {
    let rows: Vec<_> = rows(figures).into_iter().filter(|row| arguments.wants(row.part)).collect();
    print(&table(&rows));
    let path = PathBuf::from(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
        .join("bench/pipeline.json");
    let all = json!({
        "complete": complete,
        "rounds": arguments.rounds,
        "commands": arguments.commands,
        "cores": thread::available_parallelism().map_or(0, usize::from),
        "postgresql": server,
        "results": rows,
    });
    fs::create_dir_all(path.parent().context("the report has no folder")?)?;
    fs::write(&path, serde_json::to_string_pretty(&all)?).with_context(|| path.display().to_string())?;
    log(&format!("written to {}", path.display()));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a benchmark prints its results")]
fn print(table: &Table) {
    println!("{table}");
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["", "measured", "median", "goal", "met"]);
    for row in rows {
        let met = row.met.map_or("", |met| if met { "yes" } else { "NO" });
        table.add_row([
            row.part.to_string(),
            row.name.clone(),
            row.value.map_or_else(|| "not measured".to_owned(), shown),
            row.goal.clone().unwrap_or_default(),
            met.to_owned(),
        ]);
    }
    if let Some(values) = table.column_mut(2) {
        values.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// At least three significant digits.
fn shown(value: f64) -> String {
    if value >= 1000.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.3}")
    }
}

fn rows(figures: &Figures) -> Vec<Row> {
    let mut rows = throughput(figures);
    rows.extend(latency(figures));
    rows.extend(hot_spots(figures));
    rows.extend(datasets(figures));
    rows.push(Row::new('g', IDLE_CPU, figures.rounds(IDLE_CPU)).goal(Goal::Below(1.0)));
    rows.push(Row::new('g', IDLE_QUERIES, figures.rounds(IDLE_QUERIES)).goal(Goal::AtMost(2.0)));
    rows.extend([VERSION, FIRST_EVENT, SIZE].map(|name| Row::new('h', name, figures.rounds(name))));
    rows.extend(
        [192.0, 192.0, 192.0, 256.0]
            .into_iter()
            .zip(LARGE)
            .map(|(limit, name)| Row::new('m', name, figures.rounds(name)).goal(Goal::Below(limit))),
    );
    rows
}

fn throughput(figures: &Figures) -> Vec<Row> {
    let plain = |part, name| Row::new(part, name, figures.rounds(name));
    vec![
        plain('a', END_TO_END),
        plain('a', CPU).goal(Goal::Below(0.15)),
        plain('a', PEAK).goal(Goal::Below(64.0)),
        plain('b', PGBENCH),
        Row::new('b', "end to end, as a multiple of pgbench", figures.ratios(END_TO_END, PGBENCH))
            .goal(Goal::AtLeast(5.0)),
        plain('c', ONE_BY_ONE),
        Row::new('c', "end to end, as a multiple of max_batch = 1", figures.ratios(END_TO_END, ONE_BY_ONE))
            .goal(Goal::AtLeast(10.0)),
    ]
}

/// On a slow disk every latency is long. Therefore a ratio to the sum of the necessary steps is an alternative goal.
fn latency(figures: &Figures) -> Vec<Row> {
    let plain = |name| Row::new('d', name, figures.rounds(name));
    let [p50, p99, p999] = SLOW.map(plain);
    let (p50, p99) = (p50.goal(Goal::AtMost(10.0)), p99.goal(Goal::AtMost(50.0)));
    let [.., sum] = STEPS;
    let ratio = Row::new('d', "100 commands/s: p50, as a multiple of the sum", figures.ratios(SLOW[0], sum))
        .goal(Goal::AtMost(3.0));
    let (both, few) = (p50.met.zip(p99.met).map(|(p50, p99)| p50 && p99), ratio.met);
    let mut rows = vec![p50.or("few steps", few), p99.or("few steps", few), p999];
    rows.extend(FAST.map(plain));
    rows.extend(STEPS.map(plain));
    rows.push(ratio.or("both above", both));
    rows
}

fn hot_spots(figures: &Figures) -> Vec<Row> {
    let plain = |name| Row::new('e', name, figures.rounds(name));
    let ratio =
        |name: &str, of| Row::new('e', format!("{name}, as a multiple of a"), figures.ratios(of, END_TO_END));
    vec![
        plain(ONE_HOT),
        ratio("one hot SKU", ONE_HOT).goal(Goal::AtLeast(0.5)),
        plain(TEN_HOT),
        ratio("ten hot SKUs", TEN_HOT),
    ]
}

fn datasets(figures: &Figures) -> Vec<Row> {
    let [(_, small, _), larger @ ..] = DATASETS;
    let mut rows = Vec::new();
    for (_, name, arrival) in DATASETS {
        rows.push(Row::new('f', name, figures.rounds(name)));
        rows.push(Row::new('f', arrival, figures.rounds(arrival)));
    }
    for (dataset, name, _) in larger {
        let name_of_ratio = format!("{}, as a multiple of 1,000", dataset.name());
        rows.push(Row::new('f', name_of_ratio, figures.ratios(name, small)).goal(Goal::AtLeast(0.9)));
    }
    rows
}

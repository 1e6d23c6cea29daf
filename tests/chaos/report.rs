//! The table at the end, and everything that is wrong.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    time::Duration,
};

use allocation::crash_points::CrashPoint;
use comfy_table::{Table, presets};

use crate::{lab::Lab, verdict::Verdict};

/// Says something at once, while the scenarios run.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// One line about a scenario that has just ended, and what was wrong with it.
pub(crate) fn progress(verdict: &Verdict) {
    let outcome = if verdict.is_clean() { "ok    " } else { "FAILED" };
    say(&format!("{outcome} {} ({:.1} s)", verdict.scenario, verdict.took.as_secs_f64()));
    for violation in verdict.violations() {
        say(&format!("       {violation}"));
    }
}

/// Everything, in the end. True if nothing is wrong; a full run must also have passed every crash point.
pub(crate) fn summary(verdicts: &[Verdict], lab: &Lab, full: bool) -> bool {
    say(&scenarios(verdicts).to_string());
    say(&crash_points(&lab.crashes()).to_string());
    let recoveries = recoveries(lab);
    if !recoveries.is_empty() {
        say(&recoveries.to_string());
    }
    let failed: Vec<_> = verdicts.iter().filter(|verdict| !verdict.is_clean()).collect();
    for verdict in &failed {
        say(&format!("{} failed:", verdict.scenario));
        for violation in verdict.violations() {
            say(&format!("  {violation}"));
        }
    }
    played_again(verdicts);
    let crashes = lab.crashes();
    let missed: Vec<_> = CrashPoint::ALL.iter().filter(|point| !crashes.contains_key(point)).collect();
    if full && !missed.is_empty() {
        let names: Vec<_> = missed.iter().map(|point| point.name()).collect();
        say(&format!("crash points at which nobody died: {}", names.join(", ")));
    }
    say(&format!("{} of {} scenarios hold", verdicts.len() - failed.len(), verdicts.len()));
    failed.is_empty() && (!full || missed.is_empty())
}

/// Which scenarios were played more than once, and why.
fn played_again(verdicts: &[Verdict]) {
    for verdict in verdicts {
        for (number, said) in (1..).zip(&verdict.earlier_tries) {
            say(&format!("flaky: {} was played again; try {number} broke off: {said}", verdict.scenario));
        }
    }
}

fn scenarios(verdicts: &[Verdict]) -> Table {
    let mut table = table(&[
        "scenario",
        "injected",
        "hit?",
        "lost",
        "double",
        "out of order",
        "dead",
        "published again",
        "seconds",
    ]);
    for verdict in verdicts {
        table.add_row([
            verdict.scenario.clone(),
            verdict.injected.clone(),
            hits(&verdict.hits),
            verdict.lost.len().to_string(),
            verdict.double.len().to_string(),
            verdict.out_of_order.len().to_string(),
            verdict.dead.to_string(),
            verdict.duplicates.to_string(),
            format!("{:.1}", verdict.took.as_secs_f64()),
        ]);
    }
    table
}

/// The proofs, equal ones counted.
fn hits(proofs: &[String]) -> String {
    let mut counted: BTreeMap<&str, u32> = BTreeMap::new();
    for proof in proofs {
        *counted.entry(proof).or_default() += 1;
    }
    let told: Vec<_> = counted.iter().map(|(proof, times)| format!("{proof} ×{times}")).collect();
    if told.is_empty() { "NO".into() } else { told[..told.len().min(3)].join("\n") }
}

fn crash_points(crashes: &BTreeMap<CrashPoint, u32>) -> Table {
    let mut table = table(&["crash point", "deaths"]);
    for point in CrashPoint::ALL {
        let deaths = crashes.get(point).copied().unwrap_or(0);
        table.add_row([point.name().to_owned(), deaths.to_string()]);
    }
    table
}

fn recoveries(lab: &Lab) -> Table {
    let mut table = table(&["recovery", "measured", "median", "worst"]);
    for (kind, mut times) in lab.recoveries() {
        times.sort_unstable();
        let (median, worst) = (times.get(times.len() / 2), times.last());
        let told =
            |time: Option<&Duration>| time.map(|time| format!("{} ms", time.as_millis())).unwrap_or_default();
        table.add_row([format!("{kind:?}"), times.len().to_string(), told(median), told(worst)]);
    }
    table
}

fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(head.to_vec());
    table
}

//! What the tests print: progress, violations and the tables at the end.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    time::Duration,
};

use comfy_table::{Table, presets};

use crate::{check_report::CheckReport, cluster::Cluster, kill_point::KillPoint};

/// Prints a line at once.
pub(crate) fn print_line(text: &str) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// Prints the result of a scenario and its findings.
pub(crate) fn print_report(report: &CheckReport) {
    let outcome = if report.is_clean() { "ok    " } else { "FAILED" };
    print_line(&format!("{outcome} {} ({:.1} s)", report.scenario, report.elapsed.as_secs_f64()));
    for finding in report.findings() {
        print_line(&format!("       {finding}"));
    }
}

/// Prints the summary. True if every check passed; a full run must also have crashed at every crash point.
pub(crate) fn print_summary(reports: &[CheckReport], cluster: &Cluster, full: bool) -> bool {
    print_line(&scenario_table(reports).to_string());
    print_line(&crash_point_table(&cluster.crashes()).to_string());
    let recoveries = recovery_table(cluster);
    if !recoveries.is_empty() {
        print_line(&recoveries.to_string());
    }
    let failed: Vec<_> = reports.iter().filter(|report| !report.is_clean()).collect();
    for report in &failed {
        print_line(&format!("{} failed:", report.scenario));
        for finding in report.findings() {
            print_line(&format!("  {finding}"));
        }
    }
    print_retries(reports);
    let crashes = cluster.crashes();
    let names = KillPoint::all().into_iter().map(KillPoint::name);
    let unreached: Vec<_> = names.filter(|name| !crashes.contains_key(name)).collect();
    if full && !unreached.is_empty() {
        print_line(&format!("crash points without a crash: {}", unreached.join(", ")));
    }
    print_line(&format!("{} of {} scenarios passed", reports.len() - failed.len(), reports.len()));
    failed.is_empty() && (!full || unreached.is_empty())
}

/// Prints which scenarios were repeated, and why.
fn print_retries(reports: &[CheckReport]) {
    for report in reports {
        for (number, reason) in (1..).zip(&report.earlier_runs) {
            print_line(&format!(
                "flaky: {} was repeated; run {number} was aborted: {reason}",
                report.scenario
            ));
        }
    }
}

fn scenario_table(reports: &[CheckReport]) -> Table {
    let mut table = new_table(&[
        "scenario",
        "injected",
        "interrupted work",
        "lost",
        "repeated",
        "out of order",
        "dead",
        "published again",
        "seconds",
    ]);
    for report in reports {
        table.add_row([
            report.scenario.clone(),
            report.injected.clone(),
            format_evidence(&report.evidence),
            report.lost.len().to_string(),
            report.repeated.len().to_string(),
            report.out_of_order.len().to_string(),
            report.dead.to_string(),
            report.duplicates.to_string(),
            format!("{:.1}", report.elapsed.as_secs_f64()),
        ]);
    }
    table
}

/// The evidence, with counts of equal entries.
fn format_evidence(evidence: &[String]) -> String {
    let mut counted: BTreeMap<&str, u32> = BTreeMap::new();
    for entry in evidence {
        *counted.entry(entry).or_default() += 1;
    }
    let entries: Vec<_> = counted.iter().map(|(entry, times)| format!("{entry} ×{times}")).collect();
    if entries.is_empty() { "none".into() } else { entries[..entries.len().min(3)].join("\n") }
}

fn crash_point_table(crashes: &BTreeMap<String, u32>) -> Table {
    let mut table = new_table(&["crash point", "crashes"]);
    for name in KillPoint::all().into_iter().map(KillPoint::name) {
        let count = crashes.get(&name).copied().unwrap_or(0);
        table.add_row([name, count.to_string()]);
    }
    table
}

fn recovery_table(cluster: &Cluster) -> Table {
    let mut table = new_table(&["recovery", "measured", "median", "worst"]);
    for (kind, mut times) in cluster.recoveries() {
        times.sort_unstable();
        let (median, worst) = (times.get(times.len() / 2), times.last());
        let text =
            |time: Option<&Duration>| time.map(|time| format!("{} ms", time.as_millis())).unwrap_or_default();
        table.add_row([format!("{kind:?}"), times.len().to_string(), text(median), text(worst)]);
    }
    table
}

fn new_table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(columns.to_vec());
    table
}

//! The page of metrics: its table is generated from the code, and its scrape is one of the example day.

use std::{collections::BTreeSet, fmt::Write as _};

use allocation::adapters::prometheus::PrometheusObserver;

use crate::harness::{SOON, TestSystem, wait_for};

use super::part::{expect_part, marked, marks};

const PAGE: &str = "docs/metrics.md";
const DAY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/trading-day.jsonl");
/// The commands of the example day that are handled, and the events of it.
const UNPUBLISHED: &str = "select count(*) from outbox";

#[test]
fn the_table_of_metrics_is_generated_from_the_code() {
    let [begin, end] = marks("metrics");
    let mut table = "\n| metric | type | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for metric in PrometheusObserver::default().descriptions() {
        let labels = metric.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        let _ = writeln!(table, "| `{}` | {} | {labels} | {} |", metric.name, metric.kind, metric.help);
    }
    expect_part(PAGE, &marked(PAGE, "metrics"), &format!("{begin}{table}\n{end}"));
}

/// The samples of a scrape that are not zero, without buckets. A process that did nothing with a queue shows nothing of it.
fn excerpt(text: &str) -> String {
    let shown = |line: &&str| !line.starts_with('#') && !line.contains("_bucket{") && !line.ends_with(" 0");
    let mut lines: Vec<_> = text.lines().filter(shown).filter(|line| !line.ends_with(" 0.0")).collect();
    lines.sort_unstable();
    lines.join("\n") + "\n"
}

/// The series of an excerpt, without those that depend on how fast the machine is.
fn series(excerpt: &str) -> BTreeSet<String> {
    let names = excerpt.lines().filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned()));
    names
        .filter(|name| {
            !["busy", "in_progress", "oldest", "pending", "unit_of_work", "overdue", "queue_ready", "failed"]
                .iter()
                .any(|part| name.contains(part))
        })
        .collect()
}

/// The page has another run of the day: its series are compared, not the numbers.
#[tokio::test(flavor = "multi_thread")]
async fn the_scrape_of_the_page_is_one_of_the_example_day() {
    let system = TestSystem::new("the_scrape_of_the_page_is_one_of_the_example_day").await;
    let often = ("ALLOCATION__METRICS__INTERVAL", "250ms");
    let (process, metrics) = system.observed("worker,relay,archive,notifier", &[often]).await;
    system.cli(&["send", "--file", DAY, "--in-order", "--follow"]).await.exits(0);
    wait_for("all events are published", SOON, &0, async || system.count(UNPUBLISHED).await).await;
    let notified = async || {
        let scrape = metrics.scrape().await;
        let mails: f64 = scrape.nonzero("notifications_total").iter().map(|(_, mails)| mails).sum();
        scrape.get("outbox_pending") == Some(0.0)
            && Some(mails) == scrape.get(r#"messages_total{queue="notifications",type="out_of_stock",source="queue",outcome="handled"}"#)
            && scrape.get(r#"queue_consumers{queue="notifications",queue_kind="main"}"#) == Some(1.0)
    };
    wait_for("the day is over", SOON, &true, notified).await;
    let printed = excerpt(&metrics.scrape().await.text);
    let [begin, end] = marks("scrape");
    let found = marked(PAGE, "scrape");
    let block = found.split("```text\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap_or_default();
    if series(block) != series(&printed) {
        expect_part(PAGE, &found, &format!("{begin}\n```text\n{printed}```\n\n{end}"));
    }
    system.close_after([process]).await;
}

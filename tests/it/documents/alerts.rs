//! Every alert has its section in the runbook, and its command exists.

use crate::ops::rules::{Alert, alerts};

use super::{
    commands::{parse, words},
    page::Page,
};

const PAGE: &str = "docs/runbook.md";
/// How the three points of a section begin.
const POINTS: [&str; 3] = ["- **Look at** `allocation ", "- **Do**: ", "- **Escalate** "];

/// The lines below the heading with an anchor, up to the next heading.
fn section<'a>(page: &'a Page, anchor: &str) -> Option<Vec<&'a str>> {
    let anchors = page.anchors();
    let number = anchors.iter().position(|known| known == anchor)?;
    let mut headings = 0;
    let lines = page.lines.iter().filter(move |line| {
        headings += usize::from(line.block.is_none() && line.text.starts_with('#'));
        headings == number + 1
    });
    Some(lines.map(|line| line.text.as_str()).collect())
}

/// The command of an alert about this queue.
fn command(alert: &Alert, queue: &str) -> String {
    alert.annotation("command").replace("{{ $labels.queue }}", queue)
}

#[test]
fn every_alert_has_a_section_with_what_to_look_at_and_to_do() {
    let page = Page::open(PAGE);
    for alert in alerts() {
        let target = alert.annotation("runbook_url");
        let (file, anchor) = target.split_once('#').unwrap_or_else(|| panic!("{target} has no anchor"));
        assert_eq!(file, PAGE, "{}", alert.name);
        let section = section(&page, anchor).unwrap_or_else(|| panic!("{PAGE} has no section #{anchor}"));
        for point in POINTS {
            let points = section.iter().filter(|line| line.starts_with(point)).count();
            assert_eq!(points, 1, "lines that begin with {point:?} in the section #{anchor}");
        }
        let command = command(&alert, "QUEUE");
        let look = format!("- **Look at** `{command}`");
        assert!(section.iter().any(|line| line.starts_with(&look)), "{}: {look}", alert.name);
    }
}

#[test]
fn the_table_of_alerts_has_every_alert() {
    let page = Page::open(PAGE);
    let rows: Vec<_> = page.prose().map(|line| line.text.as_str()).collect();
    let rows: Vec<_> = rows.into_iter().filter(|line| line.starts_with("| `Allocation")).collect();
    let alerts = alerts();
    assert_eq!(rows.len(), alerts.len());
    for alert in alerts {
        let begin = format!("| `{}` | {} |", alert.name, alert.severity);
        let end = alert.annotation("runbook_url").replace(PAGE, "");
        let found = rows.iter().any(|row| row.starts_with(&begin) && row.ends_with(&format!("({end}) |")));
        assert!(found, "{PAGE} has no row {begin} … ({end}) |");
    }
}

#[test]
fn the_commands_of_the_alerts_exist() {
    for alert in alerts() {
        let command = command(&alert, "orders");
        let words = words(&command);
        assert_eq!(words[0], "allocation", "{}: {command}", alert.name);
        parse(&words).unwrap_or_else(|error| panic!("{}: {command}\n{error}", alert.name));
    }
}
